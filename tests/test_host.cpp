/* tests/test_host.cpp: the tests of everything that needs no CUDA.   build/tools/test_host [words in the name of a test] */
#include "options.h"
#include "files.h"
#include "tokenizer.h"
#include "data.h"
#include "sampler.h"
#include "schedule.h"
#include "tools.h"

int main(int argc, char **argv) { return run_tests(argc > 1 ? argv[1] : ""); }
