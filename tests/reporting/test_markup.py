from html.parser import HTMLParser
from xml.etree import ElementTree

from deeplab_tf.reporting import markup


def written(element):
    return ElementTree.tostring(element, encoding="unicode", method="html")


def test_texts_are_escaped_wherever_they_stand():
    hostile = "<script>&\"'</script>"
    shown = written(markup.element("p", hostile, markup.element("b", hostile), hostile, id=hostile))
    read = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: read.append((tag, attributes))
    parser.handle_data = read.append
    parser.feed(shown)
    parser.close()
    assert read == [("p", [("id", hostile)]), hostile, ("b", []), hostile, hostile]


def test_what_cannot_be_shown_is_spelled_out():
    """A control character, and a byte of a file's name that is not UTF-8."""
    assert written(markup.paragraph("a\x00b\udcffc\nd")) == "<p>a\\x00b\\udcffc\nd</p>"


def test_names_of_attributes():
    made = markup.element("td", class_="text", aria_label="x", title=None)
    assert written(made) == '<td class="text" aria-label="x"></td>'


def test_a_table_names_rows_and_columns():
    made = markup.table("Ages", ("who", "years"), [("Ada", "36")])
    assert "".join(made.itertext()) == "AgeswhoyearsAda36"
    assert [cell.get("scope") for cell in made.iter("th")] == ["col", "col", "row"]
    assert made.get("tabindex") == "0" and made.get("aria-label") == "Ages"


def test_what_is_missing_is_listed_once():
    sections = [
        markup.section(name, name, markup.missing("No scores:", "eval --x=1")) for name in "ab"
    ]
    assert markup.what_is_missing(sections) == ["No scores: eval --x=1"]


def test_the_policy_of_a_page_lets_nothing_in():
    text = markup.page("T", [], [markup.section("a", "A")])
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert "default-src 'none'" in text and '<a href="#a">A</a>' in text
