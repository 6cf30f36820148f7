// Loads a SavedModel and answers requests, as TensorFlow Serving does: LoadSavedModel, then
// Session::Run by a signature's names, in one process without Python.
//
//   load_saved_model MODEL_DIR SIGNATURE REQUEST...
//
// A request is a file with a serialized TensorProto, the signature's only input. For each, one line
// is printed: "OK" and the shape of `labels`, whose bytes go to REQUEST.labels, or the error's code
// and message.

#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor.pb.h"
#include "tensorflow/core/public/session.h"
#include "tensorflow/core/public/session_options.h"

namespace tf = tensorflow;

tf::Status Answer(tf::Session* session, const tf::SignatureDef& signature,
                  const std::string& request, tf::Tensor* labels) {
  std::ifstream file(request, std::ios::binary);
  tf::TensorProto proto;
  tf::Tensor input;
  if (!proto.ParseFromIstream(&file) || !input.FromProto(proto)) {
    return tf::errors::Internal("not a TensorProto: ", request);
  }
  std::vector<tf::Tensor> outputs;
  const std::string& input_name = signature.inputs().begin()->second.name();
  const std::string& output_name = signature.outputs().at("labels").name();
  TF_RETURN_IF_ERROR(session->Run({{input_name, input}}, {output_name}, {}, &outputs));
  *labels = outputs[0];
  return tf::OkStatus();
}

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: load_saved_model MODEL_DIR SIGNATURE REQUEST...\n";
    return 2;
  }
  tf::SavedModelBundle bundle;
  tf::Status loaded = tf::LoadSavedModel(tf::SessionOptions(), tf::RunOptions(), argv[1],
                                         {"serve"}, &bundle);
  if (!loaded.ok()) {
    std::cerr << loaded << "\n";
    return 1;
  }
  const tf::SignatureDef& signature = bundle.GetSignatures().at(argv[2]);
  for (int i = 3; i < argc; ++i) {
    tf::Tensor labels;
    tf::Status status = Answer(bundle.GetSession(), signature, argv[i], &labels);
    if (status.ok()) {
      std::ofstream(std::string(argv[i]) + ".labels", std::ios::binary) << labels.tensor_data();
      std::cout << "OK " << labels.shape().DebugString() << std::endl;
    } else {
      std::istringstream message(status.ToString());
      std::string first_line;
      std::getline(message, first_line);
      std::cout << first_line << std::endl;
    }
  }
  return 0;
}
