/* tests/test_run.cu: the tests of run_rwkv.   ./test_run [words in the name of a test] */
#define TESTING
#include "../run_rwkv.cu"
#include "run_models.h"
#include "run_files.h"
#include "run_text.h"
#include "run_sample.h"

int main(int argc, char **argv) { return run_tests(argc > 1 ? argv[1] : ""); }
