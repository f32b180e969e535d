# make            build for this machine: the GPU if one is visible, else the CPU
# make cpu        build for the CPU (any compiler for C++17; nothing else is needed)
# make gpu        build for GPUs; without a visible one for all architectures that the toolkit knows of
# make demo       prepare a text, train a small model for a minute or two, plot the loss
# make test       all tests; ends with "N passed, N failed"
# make clean
#
# PRECISION=fp32|bf16|fp16, on the CPU also fp64   [gpu: bf16, cpu: fp32]    GPU_ARCH="80 90"   [see dev/gpu_flags.sh]
# DEBUG=1 for gdb and errors at the launch that caused them   SANITIZE=1 for ASan and UBSan (CPU)   CXX=clang++
#
# Programs go to build/DEVICE-PRECISION/, links to the ones last made to the top.

ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 2)
endif
CXX ?= g++
NVCC ?= nvcc
DEVICE ?= $(shell dev/gpu_flags.sh --visible "$(NVCC)" && echo gpu || echo cpu)
PRECISION ?= $(if $(filter gpu,$(DEVICE)),bf16,fp32)
BUILD := build/$(DEVICE)-$(PRECISION)$(if $(DEBUG),-debug)$(if $(SANITIZE),-sanitize)

PROGRAMS := train_rwkv            # CUDA: one .cu at the top each
TOOLS := prepare stories plot     # plain C++
CUDA_TESTS := test_rwkv ladder_wkv4 bench_gemm
HOST_TESTS := test_host

source = $(firstword $(wildcard $1.cu data_prep/$1.cpp dev/$1.cpp tests/$1.cpp) $(source_$1))
source_ladder_wkv4 := dev/kernels/wkv4/ladder.cu
source_bench_gemm := dev/bench/gemm.cu

ifeq (,$(filter fp32 bf16 fp16 $(if $(filter cpu,$(DEVICE)),fp64),$(PRECISION)))
$(error PRECISION=$(PRECISION) is not one of fp32 bf16 fp16$(if $(filter cpu,$(DEVICE)), fp64); fp64 is for the CPU)
endif
DEFINES := -DPRECISION_$(shell echo $(PRECISION) | tr a-z A-Z) $(if $(DEBUG),-DDEBUG) -I.

# -march=native: the CPU kernels are plain vector code; override ARCH to build for another machine
ARCH ?= native
comma := ,
OPT ?= -O3
OPTIMISE := $(if $(DEBUG)$(SANITIZE),-O1 -g,$(OPT)) $(if $(SANITIZE),-fsanitize=address$(comma)undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
WARN := -Wall -Wextra
CPU_FLAGS = $(if $(filter aarch64 arm64,$(shell uname -m)),-mcpu=$(ARCH),-march=$(ARCH)) $(OPTIMISE) $(WARN) -Wno-maybe-uninitialized -Wno-nonnull $(if $(findstring clang,$(CXX)),-Wno-pass-failed)

.PHONY: all cpu gpu demo test clean
all: $(addprefix $(BUILD)/,$(PROGRAMS)) $(addprefix build/tools/,$(TOOLS))
	@for p in $(PROGRAMS); do ln -sf $(BUILD)/$$p $$p; done; for p in $(TOOLS); do ln -sf build/tools/$$p $$p; done
	@echo "built $(BUILD)/: $(strip $(PROGRAMS)), and $(strip $(TOOLS))"
cpu gpu:
	@$(MAKE) --no-print-directory DEVICE=$@ all

ifeq ($(DEVICE),cpu)
$(BUILD)/%: dev/cpu/cucc dev/cpu/cuda.sed | $(BUILD)
	CXX="$(CXX)" dev/cpu/cucc $(CPU_FLAGS) $(DEFINES) -MMD -MP -MF $@.d $(call source,$*) -o $@
else
$(BUILD)/%: | $(BUILD)
	@flags=$$(dev/gpu_flags.sh "$(NVCC)" "$(PRECISION)" "$(GPU_ARCH)") && set -x && \
	"$(NVCC)" -std=c++17 -O3 $(if $(DEBUG),-lineinfo) -Wno-deprecated-gpu-targets $$flags $(DEFINES) -MMD -MP -MF $@.d $(call source,$*) -o $@ -lcublasLt
endif
build/tools/%: | build/tools
	$(CXX) -std=c++17 -O2 $(WARN) -I. -MMD -MP -MF $@.d $(call source,$*) -o $@ -pthread
build/tools-sanitize/%: | build/tools-sanitize
	$(CXX) -std=c++17 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all $(WARN) -I. -MMD -MP -MF $@.d $(call source,$*) -o $@ -pthread
$(BUILD) build/tools build/tools-sanitize:
	@mkdir -p $@

# The programs depend on their sources by the .d files; these lines are for the first build
define depends
$(BUILD)/$1: $(call source,$1)
endef
$(foreach p,$(PROGRAMS) $(CUDA_TESTS),$(eval $(call depends,$p)))
$(foreach p,$(TOOLS) $(HOST_TESTS),$(eval build/tools/$p build/tools-sanitize/$p: $(call source,$p)))
%.d: ;
-include $(wildcard build/*/*.d)

demo: all
	dev/demo.sh
test:
	tests/run.sh
clean:
	rm -rf build $(PROGRAMS) $(TOOLS)
