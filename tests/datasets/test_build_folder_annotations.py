"""build_folder_data --annotations: from the files of annotation tools to labels and splits."""

import json
import subprocess

import numpy as np
import pytest
from PIL import Image

from datasets import build_folder_data
from deeplab_tf.conversion import encoding
from deeplab_tf.data import catalog, class_lists, decoding, records
from deeplab_tf.evaluation.coco import CocoFile
from deeplab_tf.messages import UserError

SQUARE = [[2, 2], [6, 2], [6, 5], [2, 5]]


def image(path, size=(10, 8), **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, len(path.name)).save(path, **settings)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def labelme(name, *labels, size=(10, 8), **others):
    shapes = [{"label": one, "points": SQUARE, "shape_type": "polygon"} for one in labels]
    sizes = {"imageWidth": size[0], "imageHeight": size[1]}
    return {"shapes": shapes, "imagePath": name, "imageData": None} | sizes | others


def coco(*names, labelled=True, size=(10, 8)):
    flat = [number for point in SQUARE for number in point]
    return {
        "images": [
            {"id": number, "file_name": name, "width": size[0], "height": size[1]}
            for number, name in enumerate(names)
        ],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 3, "segmentation": [flat]}
            for number in range(len(names) if labelled else 1)
        ],
        "categories": [{"id": 3, "name": "cat"}],
    }


def config(tmp_path, **values):
    given = {
        "images_dir": str(tmp_path / "images"),
        "annotations": (str(tmp_path / "labels"),),
        "output_dir": str(tmp_path / "out"),
        "val_fraction": 0.5,
    }
    return build_folder_data.FolderConfig(**given | values)


def found(tmp_path, **values):
    """Returns the classes and, for each split, the label of each image."""
    given = config(tmp_path, **values)
    class_list = None
    if given.class_list:
        class_list = class_lists.read_class_list(tmp_path / given.class_list)
    classes, coding, splits = build_folder_data.find_drawings(given, class_list)
    labels = {}
    for split, pairs in splits.items():
        for pair in pairs:
            png = encoding.encode_pair(pair, coding).label
            picture = decoding.open_image(png, pair.name)
            labels.setdefault(split, {})[pair.name] = np.asarray(picture)
    return [one.name for one in classes.classes], labels


def sums(labels):
    return {split: {n: int(a.sum()) for n, a in of.items()} for split, of in labels.items()}


def of_all(labels):
    return {name: label for split in labels.values() for name, label in split.items()}


@pytest.fixture
def two_images(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        image(tmp_path / "images" / name)
    return tmp_path


@pytest.fixture
def of_labelme(two_images):
    write(two_images / "labels/a.json", labelme("..\\images\\a.jpg", "cat", "__ignore__"))
    write(two_images / "labels/b.json", labelme("b.jpg", "dog"))
    write(two_images / "labels.txt", "__ignore__\n_background_\ncat\ndog\n")
    return two_images


def test_a_folder_of_labelme_becomes_records(of_labelme, capsys):
    settings = {"class_list": str(of_labelme / "labels.txt")}
    build_folder_data.main(config(of_labelme, **settings))
    info = catalog.load("", of_labelme / "out")
    assert info.class_names == ["_background_", "cat", "dog"] and info.ignore_label == 255
    labels = {}
    for split in ("train", "val"):
        table = records.open_split(of_labelme / "out", split, info)
        record = records.parse(table.read(0))
        labels[record["name"].numpy().decode()] = record["label"].numpy()[..., 0]
    # labelme's polygons hold their outline: 5 x 4 pixels. The later shape covers the first one.
    assert np.bincount(labels["a"].ravel())[[0, 255]].tolist() == [60, 20]
    assert np.bincount(labels["b"].ravel()).tolist() == [60, 0, 20]

    build_folder_data.main(config(of_labelme, **settings))
    assert capsys.readouterr().out.count("is up to date") == 2
    write(of_labelme / "labels/b.json", labelme("b.jpg", "cat"))
    build_folder_data.main(config(of_labelme, **settings))
    assert capsys.readouterr().out.count("is up to date") == 1
    build_folder_data.main(config(of_labelme, unlabeled="ignore", **settings))
    assert "is up to date" not in capsys.readouterr().out


def test_what_the_user_ignores_is_no_surprise(of_labelme, capsys):
    """Three quarters of the pixels have no shape."""
    settings = {"class_list": str(of_labelme / "labels.txt"), "unlabeled": "ignore"}
    build_folder_data.main(config(of_labelme, **settings))
    told = capsys.readouterr()
    assert "is it one of the classes?" not in told.err and "ignored, of all" in told.out


def test_labelme_without_a_class_list_is_told_the_command(of_labelme, monkeypatch):
    with pytest.raises(UserError, match="class_list is missing") as error:
        found(of_labelme)
    monkeypatch.chdir(of_labelme)
    (of_labelme / "labels.txt").unlink()
    command = str(error.value)[str(error.value).index("printf") :]
    subprocess.run(["sh", "-c", command], check=True)
    assert (of_labelme / "labels.txt").read_text().split() == ["_background_", "cat", "dog"]
    assert found(of_labelme, class_list="labels.txt")[0] == ["_background_", "cat", "dog"]


def test_files_of_labelme_may_lie_beside_the_images(two_images, capsys):
    write(two_images / "images/a.json", labelme("C:\\data\\a.jpg", "cat"))
    write(two_images / "classes.txt", "background\ncat\n")
    image(two_images / "images/c.jpg")
    write(two_images / "images/c.json", labelme("c.jpg"))
    write(two_images / "images/other.json", {"x": 1})
    values = {"annotations": (str(two_images / "images"),), "class_list": "classes.txt"}
    assert {n: a.sum() for n, a in of_all(found(two_images, **values)[1]).items()} == {
        "a": 20,
        "c": 0,
    }
    told = capsys.readouterr().err
    assert "left out 1 image of 3 without annotations" in told and "b.jpg" in told
    assert "left out 1 file without annotations" in told and "other.json is not a file of" in told
    assert "left out: " not in told


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.json", labelme("b.jpg", "cat"), r"a\.json has the name of the image .*a\.jpg, but"),
        ("c.json", labelme("a.jpg", "cat"), r"a\.jpg is described twice, as the image"),
        ("a.json", labelme("a.jpg", "cat", size=(9, 8)), r"is 10x8 but the image 'a.jpg' .* 9x8"),
        (
            "a.json",
            labelme("a.jpg", "cow"),
            r"not in .*labels\.txt \(_background_, cat, dog\).*cow",
        ),
        ("a.json", labelme("a.jpg", size=(9, -1)), r"a\.json is damaged \(imageHeight is -1"),
        ("a.json", '{"shapes": [], "shapes": []}', 'has the key "shapes" twice'),
        ("a.json", "{", "a.json is damaged .it is not JSON"),
        ("a.json", '{"shapes": [{"label": "cat", "points": [[NaN, 1]]}]}', "it holds NaN"),
        ("c.json", coco("a.jpg"), r"holds a file of labelme, .*a\.json, and one of COCO"),
    ],
)
def test_contradictions_are_refused(of_labelme, file, content, message):
    write(of_labelme / "labels" / file, content)
    with pytest.raises(UserError, match=message):
        found(of_labelme, class_list="labels.txt")


def test_images_that_are_missing_are_counted_or_refused(of_labelme, capsys):
    (of_labelme / "images/b.jpg").unlink()
    image(of_labelme / "images/c.jpg")
    write(of_labelme / "labels/c.json", labelme("c.jpg", "cat"))
    _, labels = found(of_labelme, class_list="labels.txt")
    assert set(of_all(labels)) == {"a", "c"}
    told = capsys.readouterr().err
    assert "left out the annotations of 1 image of 3" in told and "'b.jpg'" in told
    (of_labelme / "empty").mkdir()
    image(of_labelme / "empty/z.jpg")
    with pytest.raises(UserError, match="holds none of the 3 images that .*'..\\\\\\\\images"):
        found(of_labelme, class_list="labels.txt", images_dir=str(of_labelme / "empty"))


def test_a_damaged_file_is_skipped_on_demand(of_labelme):
    write(of_labelme / "labels/b.json", "{")
    for name in ("c", "d"):
        image(of_labelme / f"images/{name}.jpg")
        write(of_labelme / f"labels/{name}.json", labelme(f"{name}.jpg", "cat"))
    given = config(of_labelme, class_list=str(of_labelme / "labels.txt"), skip_bad=True)
    build_folder_data.main(given)
    entries = json.loads((of_labelme / "out/dataset.json").read_text())["splits"].values()
    assert [bad["name"] for entry in entries for bad in entry["skipped"]] == ["b"]


@pytest.mark.parametrize("declared", [(8, 10), None])
def test_labelme_draws_on_the_turned_image(tmp_path, declared):
    """EXIF orientation 6 turns an image of 10x8 into one of 8x10, which labelme shows."""
    exif = Image.Exif()
    exif[274] = 6
    for name in ("a.jpg", "b.jpg"):
        image(tmp_path / "images" / name, exif=exif)
        sizes = {} if declared else {"imageWidth": None, "imageHeight": None}
        write(tmp_path / f"labels/{name[0]}.json", labelme(name, "cat", size=(8, 10)) | sizes)
    write(tmp_path / "classes.txt", "background\ncat\n")
    label = of_all(found(tmp_path, class_list="classes.txt")[1])["a"]
    assert label.shape == (10, 8) and (label[2:6, 2:7] == 1).all() and label.sum() == 20


@pytest.mark.parametrize("sizes", ["absent", "null", "turned"])
def test_coco_without_sizes_does_not_say_on_which_image_it_was_drawn(tmp_path, capsys, sizes):
    """EXIF orientation 6 turns both images of 10x8; with the turned size, there is no doubt."""
    exif = Image.Exif()
    exif[274] = 6
    content = coco("a.jpg", "b.jpg", size=(8, 10))
    for one in content["images"]:
        image(tmp_path / "images" / one["file_name"], exif=exif)
        if sizes != "turned":
            del one["width"], one["height"]
        if sizes == "null":
            one |= {"width": None, "height": None}
    write(tmp_path / "labels/c.json", content)

    build_folder_data.main(config(tmp_path))
    told = capsys.readouterr().err
    assert "2 images (the first: 'a') turned as the EXIF data say" in told
    if sizes == "turned":
        assert "inspect_data" not in told
        return
    assert "or the annotations do not give the size of the image that they were drawn on;" in told
    # The way out, for polygons that were drawn on the unturned image: 8 rows, 10 columns.
    build_folder_data.main(config(tmp_path, exif_orientation="ignore"))
    assert "EXIF" not in capsys.readouterr().err
    table = records.open_split(tmp_path / "out", "val", catalog.load("", tmp_path / "out"))
    label = records.parse(table.read(0))["label"].numpy()[..., 0]
    assert label.shape == (8, 10) and (label[2:5, 2:6] == 1).all() and label.sum() == 12


def test_labels_that_the_list_lacks(of_labelme, capsys):
    write(of_labelme / "short.txt", "background\ncat\n")
    write(of_labelme / "labels/a.json", labelme("a.jpg", "cat"))
    _, labels = found(of_labelme, class_list="short.txt", unlisted="skip")
    assert {name: int(a.sum()) for name, a in of_all(labels).items()} == {"a": 20, "b": 0}
    assert "left out labels that are not in" in capsys.readouterr().err
    _, labels = found(of_labelme, class_list="short.txt", unlisted="ignore")
    assert int((of_all(labels)["b"] == 255).sum()) == 20
    write(of_labelme / "none.txt", "bird\ncow\n")
    with pytest.raises(UserError, match="has no class of that name; add a line background"):
        found(of_labelme, class_list="none.txt")
    with pytest.raises(UserError, match="there is nothing to learn"):
        found(of_labelme, class_list="none.txt", unlisted="skip", unlabeled="ignore")


def test_coco_lists_its_classes_and_its_images(two_images, capsys):
    write(two_images / "c.json", coco("images/a.jpg", "b.jpg", labelled=False))
    classes, labels = found(two_images, annotations=(str(two_images / "c.json"),))
    assert classes == ["background", "cat"]
    # COCO's polygons do not hold their right and lower outline: 4 x 3 pixels.
    assert {name: int(a.sum()) for name, a in of_all(labels).items()} == {"a": 12, "b": 0}
    assert "2 classes, in the order of the file: background, cat." in capsys.readouterr().out
    values = {"annotations": (str(two_images / "c.json"),), "unlabeled": "ignore"}
    write(two_images / "classes.txt", "dog\ncat\n")
    _, labels = found(two_images, class_list="classes.txt", **values)
    assert np.bincount(of_all(labels)["a"].ravel())[[1, 255]].tolist() == [12, 68]


def test_a_file_for_each_split(tmp_path):
    for split in ("train", "val"):
        image(tmp_path / f"images/{split}/0.jpg")  # the same name in both
        write(tmp_path / f"c/instances_{split}.json", coco("0.jpg", labelled=split == "train"))
    values = {"val_fraction": 0.0}
    named = tuple(f"{split}={tmp_path}/c/instances_{split}.json" for split in ("train", "val"))
    expected = {"train": {"train/0": 12}, "val": {"val/0": 12}}
    assert sums(found(tmp_path, annotations=named, **values)[1]) == expected
    folder = (str(tmp_path / "c"),)
    assert sums(found(tmp_path, annotations=folder, **values)[1]) == expected
    with pytest.raises(UserError, match="names the splits, so --split_lists and --val_fraction"):
        found(tmp_path, annotations=named)
    with pytest.raises(UserError, match=r"0\.jpg. in .* may be .*train/0\.jpg or .*val/0\.jpg"):
        found(tmp_path, annotations=(str(tmp_path / "c/instances_val.json"),))
    with pytest.raises(UserError, match="names several files; give NAME=FILE"):
        found(tmp_path, annotations=(named[0].partition("=")[2], named[1]), **values)


def test_files_beside_their_images_name_splits_by_folders(tmp_path):
    for split in ("train", "valid"):
        image(tmp_path / f"images/{split}/0.jpg")
        write(tmp_path / f"images/{split}/_annotations.coco.json", coco("0.jpg"))
    values = {"annotations": (str(tmp_path / "images"),), "val_fraction": 0.0}
    expected = {"train": {"train/0": 12}, "valid": {"valid/0": 12}}
    assert sums(found(tmp_path, **values)[1]) == expected


def test_names_in_a_file_never_lead_out_of_the_folder(two_images):
    image(two_images / "secret.jpg")
    write(two_images / "c.json", coco(str(two_images / "secret.jpg"), "../secret.jpg", "/x/a.jpg"))
    values = {"annotations": (str(two_images / "c.json"),)}
    with pytest.raises(UserError, match="val_fraction=0.5 needs two images"):  # only a.jpg
        found(two_images, **values)


def cvat(*images):
    """Returns a file with images of these names and subsets."""
    shape = '<polygon label="cat" points="2,2;6,2;6,5;2,5" z_order="0"/>'
    text = "".join(
        f'<image id="{n}" name="{name}" subset="{subset}" width="10" height="8">{shape}</image>'
        for n, (name, subset) in enumerate(images)
    )
    labels = "<meta><task><labels><label><name>cat</name></label></labels></task></meta>"
    return f"<annotations>{labels}{text}</annotations>"


def test_cvat_may_assign_the_splits(two_images):
    write(two_images / "a.xml", cvat(("a.jpg", "Train"), ("b.jpg", "Val")))
    values = {"annotations": (str(two_images / "a.xml"),)}
    by_subset = found(two_images, val_fraction=0.0, **values)
    assert by_subset[0] == ["background", "cat"]
    assert sums(by_subset[1]) == {"train": {"a": 12}, "val": {"b": 12}}


def test_a_subset_that_cannot_name_a_split_is_refused(two_images):
    write(two_images / "a.xml", cvat(("a.jpg", "Train 1"), ("b.jpg", "Test 1")))
    values = {"annotations": (str(two_images / "a.xml"),)}
    with pytest.raises(UserError, match="subset 'train 1', which cannot name a split"):
        found(two_images, val_fraction=0.0, **values)
    assert list(found(two_images, **values)[1]) == ["train", "val"]


@pytest.mark.parametrize(
    "names",
    [
        ("instances_train2017.json", "instances_val2017.json"),
        ("train/_annotations.coco.json", "valid/_annotations.coco.json"),
    ],
)
def test_no_share_is_drawn_from_files_that_name_splits(two_images, names):
    for name, own in zip(names, ("a.jpg", "b.jpg"), strict=True):
        write(two_images / "labels" / name, coco(own))
    with pytest.raises(UserError, match="val_fraction=0.5 would mix the splits that the annot"):
        found(two_images)
    assert len(found(two_images, val_fraction=0.0)[1]) == 2
    one = (str(two_images / "labels" / names[0]),)
    with pytest.raises(UserError, match="val_fraction=0.5 needs two images"):  # a.jpg alone
        found(two_images, annotations=one)


def test_a_damaged_file_of_an_unknown_image_is_refused(two_images):
    write(two_images / "labels/a_done.json", labelme("a.jpg", "cat"))
    write(two_images / "labels/b_done.json", json.dumps(labelme("b.jpg", "cat"))[:-9])
    write(two_images / "classes.txt", "_background_\ncat\n")
    lists = {"train": "a", "val": "b"}
    for split, name in lists.items():
        write(two_images / f"{split}.txt", f"{name}\n")
    values = {
        "class_list": str(two_images / "classes.txt"),
        "split_lists": tuple(f"{split}={two_images / split}.txt" for split in lists),
        "val_fraction": 0.0,
    }
    with pytest.raises(UserError, match=r"b_done\.json"):
        found(two_images, **values)


def test_one_labelme_file_in_shares_is_refused(two_images):
    write(two_images / "labels/a.json", labelme("a.jpg", "cat"))
    shares = labelme("b.jpg", "cat")
    shares["shapes"][0]["points"] = [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9]]
    write(two_images / "labels/b.json", shares)
    with pytest.raises(UserError, match=r"b\.json has only coordinates from 0 to 1"):
        found(two_images)


def test_subsets_of_cvat_may_share_names(tmp_path):
    for subset in ("Train", "Val"):
        image(tmp_path / f"images/{subset}/1.jpg")
    write(tmp_path / "a.xml", cvat(("1.jpg", "Train"), ("1.jpg", "Val")))
    _, labels = found(tmp_path, annotations=(str(tmp_path / "a.xml"),), val_fraction=0.0)
    assert sums(labels) == {"train": {"Train/1": 12}, "val": {"Val/1": 12}}


def test_cvats_default_is_no_subset(two_images):
    values = {"annotations": (str(two_images / "a.xml"),), "val_fraction": 0.0}
    write(two_images / "a.xml", cvat(("a.jpg", "default"), ("b.jpg", "default")))
    with pytest.raises(UserError, match=r"is not in the folder of a split.*--val_fraction"):
        found(two_images, **values)
    assert list(found(two_images, **values | {"val_fraction": 0.5})[1]) == ["train", "val"]
    write(two_images / "a.xml", cvat(("a.jpg", "Train"), ("b.jpg", "default_1")))
    with pytest.raises(UserError, match=r"subsets train, but 1 image to none .*b\.jpg"):
        found(two_images, **values)
    assert list(found(two_images, **values | {"val_fraction": 0.5})[1]) == ["train", "val"]


def test_a_folder_of_labelme_for_each_split(tmp_path):
    for split, label in (("train", "cat"), ("val", "dog")):
        image(tmp_path / f"images/{split}/1.jpg")
        write(tmp_path / f"labels/{split}/1.json", labelme("1.jpg", label))
    write(tmp_path / "classes.txt", "background\ncat\ndog\n")
    named = tuple(f"{split}={tmp_path}/labels/{split}" for split in ("train", "val"))
    _, labels = found(tmp_path, annotations=named, class_list="classes.txt", val_fraction=0.0)
    assert sums(labels) == {"train": {"train/1": 20}, "val": {"val/1": 40}}


def test_an_image_of_another_split_is_not_drawn_on(tmp_path, capsys):
    for name in ("train/1.jpg", "train/5.jpg", "val/1.jpg"):
        image(tmp_path / "images" / name)
    for split in ("train", "val"):
        write(tmp_path / f"{split}.json", coco("1.jpg", "5.jpg"))
    named = tuple(f"{split}={tmp_path}/{split}.json" for split in ("train", "val"))
    _, labels = found(tmp_path, annotations=named, val_fraction=0.0)
    assert {split: list(of) for split, of in labels.items()} == {
        "train": ["train/1", "train/5"],
        "val": ["val/1"],
    }
    assert "val.json: left out the annotations of 1 image of 2" in capsys.readouterr().err


@pytest.mark.parametrize("dataset", ["pascal_voc_seg", "pascal_context"])
def test_what_vis_writes_as_coco_comes_back(two_images, dataset):
    names = catalog.KNOWN[dataset]().class_names
    random = np.random.default_rng(0)
    expected = {name: random.integers(0, len(names), (8, 10)) for name in ("a", "b")}
    file = CocoFile(names)
    for name, labels in expected.items():
        file.add(f"{name}.jpg", labels)
    write(two_images / "c.json", file.text())
    classes, labels = found(two_images, annotations=(str(two_images / "c.json"),))
    assert classes == names
    for name, label in of_all(labels).items():
        np.testing.assert_array_equal(label, expected[name])


def test_names_that_no_class_list_can_hold_are_refused(two_images):
    def refused(file, content):
        write(two_images / file, content)
        with pytest.raises(
            UserError, match=rf"{file} lists a class whose name, .*; rename"
        ) as error:
            found(two_images, annotations=(str(two_images / file),))
        return str(error.value)

    names = {
        " ": "name, '', is empty",
        "x" * 401: "is longer than 400",
        "a\x07b": "holds a line end",
    }
    for name, problem in names.items():
        categories = {"categories": [{"id": 3, "name": name}]}
        assert problem in refused("c.json", coco("a.jpg", "b.jpg") | categories)
    of_cvat = cvat(("a.jpg", ""), ("b.jpg", "")).replace("<name>cat", "<name>a&#10;b")
    assert "holds a line end" in refused("a.xml", of_cvat)


def test_lists_name_annotated_images_only(of_labelme):
    image(of_labelme / "images/c.jpg")
    values = {"class_list": "labels.txt", "val_fraction": 0.0}
    write(of_labelme / "t.txt", "b.jpg\na\n")
    lists = {"split_lists": (f"train={of_labelme}/t.txt",)}
    assert list(found(of_labelme, **values, **lists)[1]["train"]) == ["b", "a"]
    write(of_labelme / "t.txt", "c.jpg\n")
    with pytest.raises(UserError, match=r"names .*c\.jpg, which has no annotation"):
        found(of_labelme, **values, **lists)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"masks_dir": "m"}, "Give either --masks_dir or --annotations"),
        ({"annotations": ()}, "Give either --masks_dir or --annotations"),
        ({"annotations": ("nowhere",)}, "--annotations=nowhere does not exist"),
        ({"annotations": ("{}/images",)}, "holds no file of labelme, Supervisely or COCO"),
        ({"images_dir": "{}/labels.txt"}, "does not exist or is not a folder"),
    ],
)
def test_settings_that_do_not_fit_together(of_labelme, values, message):
    filled = {
        name: tuple(part.format(of_labelme) for part in value)
        if isinstance(value, tuple)
        else value.format(of_labelme)
        for name, value in values.items()
    }
    with pytest.raises(UserError, match=message):
        found(of_labelme, class_list="labels.txt", **filled)


def test_what_is_left_out_is_no_region_of_a_listed_image(two_images, capsys):
    content = coco("a.jpg", "b.jpg")
    content["annotations"].append(content["annotations"][0] | {"id": 7, "image_id": 9})
    write(two_images / "c.json", content)
    found(two_images, annotations=(str(two_images / "c.json"),))
    assert (
        "left out shapes that are no region of a listed image: 1 of an image that the file does "
        "not list.\n"
    ) in capsys.readouterr().err

    square = '<polygon label="cat" points="1,1;1,5;5,5"/>'
    images = "".join(
        f'<image id="{name}" name="{name}.jpg" width="10" height="8">{square}</image>'
        for name in "ab"
    )
    labels = "<meta><task><labels><label><name>cat</name></label></labels></task></meta>"
    track = '<track id="0" label="cat"><box frame="0"/></track>'
    (two_images / "a.xml").write_text(f"<annotations>{labels}{images}{track}</annotations>")
    found(two_images, annotations=(str(two_images / "a.xml"),))
    assert (
        "no region of a listed image: 1 track, as in files for video.\n" in capsys.readouterr().err
    )


def supervisely(*labels, size=(10, 8)):
    objects = [
        {
            "classTitle": one,
            "geometryType": "polygon",
            "points": {"exterior": SQUARE, "interior": []},
        }
        for one in labels
    ]
    return {"size": {"width": size[0], "height": size[1]}, "objects": objects, "tags": []}


@pytest.fixture
def project(tmp_path):
    """A project of Supervisely's with two data sets, whose images have the same name."""
    for split, label in (("train", "cat"), ("val", "dog")):
        image(tmp_path / f"project/{split}/img/a.jpg")
        write(tmp_path / f"project/{split}/ann/a.jpg.json", supervisely(label))
    classes = [{"title": "dog", "color": "#010203"}, {"title": "cat", "color": "#040506"}]
    write(tmp_path / "project/meta.json", {"classes": classes, "tags": []})
    return tmp_path


# Polygons hold their outline, as labelme's above do: 5 x 4 pixels of class 2, cat, or 1, dog.
OF_PROJECT = {"train": 20 * 2, "val": 20 * 1}


def test_a_project_of_supervisely_has_classes_and_splits(project, capsys):
    folder = str(project / "project")
    values = {"images_dir": folder, "val_fraction": 0.0}
    classes, labels = found(project, annotations=(folder,), **values)
    assert classes == ["background", "dog", "cat"]
    assert {split: sum(of.values()) for split, of in sums(labels).items()} == OF_PROJECT
    assert "left out" not in capsys.readouterr().err  # meta.json is known

    named = tuple(f"{split}={folder}/{split}/ann" for split in ("train", "val"))
    classes, labels = found(project, annotations=named, **values)
    assert classes == ["background", "dog", "cat"]
    assert {split: sum(of.values()) for split, of in sums(labels).items()} == OF_PROJECT


def test_a_label_that_a_project_lacks_names_its_list(project, capsys):
    write(project / "project/train/ann/a.jpg.json", supervisely("cow"))
    ann = str(project / "project/train/ann")
    values = {"images_dir": str(project / "project/train/img"), "annotations": (ann,)}
    meta = project / "project/meta.json"
    with pytest.raises(UserError, match=f"not in {meta} .*'cow' .*; add them there"):
        found(project, **values)
    assert f"{meta}: 3 classes" in capsys.readouterr().out

    classes = json.loads(meta.read_text())["classes"]
    write(meta, {"classes": [*classes, {"title": "cow", "color": "#070809"}], "tags": []})
    image(project / "project/train/img/b.jpg")
    write(project / "project/train/ann/b.jpg.json", supervisely("cat"))
    assert found(project, **values)[0] == ["background", "dog", "cat", "cow"]


def test_a_data_set_of_supervisely_by_itself(project):
    image(project / "project/train/img/b.jpg")
    write(project / "project/train/ann/b.jpg.json", supervisely("dog"))
    values = {
        "images_dir": str(project / "project/train/img"),
        "annotations": (str(project / "project/train/ann"),),
    }
    labels = of_all(found(project, **values)[1])
    assert {name: int(label.sum()) for name, label in labels.items()} == {"a": 40, "b": 20}

    # Images elsewhere, in the same arrangement; and without the project's list of classes.
    (project / "project/train/img").rename(project / "images")
    (project / "project/meta.json").unlink()
    values["images_dir"] = str(project / "images")
    with pytest.raises(
        UserError, match="class_list is missing, and the project's meta.json is not"
    ):
        found(project, **values)
    write(project / "classes.txt", "background\ncat\ndog\n")
    labels = of_all(found(project, class_list="classes.txt", **values)[1])
    assert {name: int(label.sum()) for name, label in labels.items()} == {"a": 20, "b": 40}


def test_an_image_of_another_data_set_is_another_one(project, capsys):
    (project / "project/val/img/a.jpg").unlink()
    image(project / "project/train/img/b.jpg")
    write(project / "project/train/ann/b.jpg.json", supervisely("cat"))
    folder = str(project / "project")
    labels = of_all(found(project, images_dir=folder, annotations=(folder,))[1])
    assert set(labels) == {"train/img/a", "train/img/b"}
    assert "left out the annotations of 1 image of 3" in capsys.readouterr().err


def test_a_damaged_file_of_supervisely_stops_its_image(project):
    write(project / "project/val/ann/a.jpg.json", "{")
    folder = str(project / "project")
    with pytest.raises(UserError, match="a.jpg.json is damaged"):
        found(project, images_dir=folder, annotations=(folder,), val_fraction=0.0)


def test_files_of_two_tools_are_refused(project):
    write(project / "project/train/ann/b.json", labelme("b.jpg", "cat"))
    folder = str(project / "project")
    with pytest.raises(UserError, match="holds a file of (labelme|Supervisely), .*, and one of "):
        found(project, images_dir=folder, annotations=(folder,))
