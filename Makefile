# make            build for this machine: the GPU if one is visible, else the CPU; make train_rwkv7 builds one program
# make cpu        build for the CPU (any compiler for C++17; nothing else is needed)
# make gpu        build for GPUs; without a visible one for all architectures that dev/gpu_flags.sh lists
# make demo       prepare a text, train a small model for a minute or two, plot the loss
# make compare    RWKV-4 beside GPT-2 on the same text; make compare-inference: their time and memory per token
# make test       all tests; ends with "N passed, N failed"
# make clean
#
# PRECISION=fp32|bf16|fp16, on the CPU also fp64   [gpu: bf16, cpu: fp32]    GPU_ARCH="80 90"   [see dev/gpu_flags.sh]
# DEBUG=1 for gdb and errors at the launch that caused them   SANITIZE=1 for ASan and UBSan (CPU)   CXX=clang++
# REHEARSE=1 on the CPU: the kernels and launches of the GPU, to test them without one
#
# Programs go to build/DEVICE-PRECISION/, links to the ones last made to the top.

ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 2)
endif
CXX ?= g++
NVCC ?= nvcc
DEVICE ?= $(shell dev/gpu_flags.sh --visible "$(NVCC)" && echo gpu || echo cpu)
PRECISION ?= $(if $(filter gpu,$(DEVICE)),bf16,fp32)
BUILD := build/$(DEVICE)-$(PRECISION)$(if $(DEBUG),-debug)$(if $(SANITIZE),-sanitize)$(if $(REHEARSE),-rehearsal)

PROGRAMS := train_rwkv train_rwkv7 train_gpt2 run_rwkv    # CUDA: one .cu at the top each
TOOLS := prepare stories tasks plot                       # plain C++
CUDA_TESTS := test_rwkv test_rwkv7 test_gpt2 test_run ladder_wkv4 ladder_wkv7 ladder_attention bench_gemm
HOST_TESTS := test_host
MODEL_TOOLS := latency_rwkv4 latency_gpt2 score_rwkv4 score_rwkv7  # one source for several models: -DMODEL_RWKV4, ...

source = $(firstword $(wildcard $1.cu data_prep/$1.cpp dev/$1.cpp tests/$1.cpp tests/$1.cu) $(source_$1) $(source_$(firstword $(subst _, ,$1))))
source_bench_gemm := dev/bench/gemm.cu
source_ladder_wkv4 := dev/kernels/wkv4/ladder.cu
source_ladder_wkv7 := dev/kernels/wkv7/ladder.cu
source_ladder_attention := dev/kernels/attention/ladder.cu
source_latency := dev/compare/latency.cu
source_score := dev/tasks/score.cu

ifeq (,$(filter fp32 bf16 fp16 $(if $(filter cpu,$(DEVICE)),fp64),$(PRECISION)))
$(error PRECISION=$(PRECISION) is not one of fp32 bf16 fp16$(if $(filter cpu,$(DEVICE)), fp64); fp64 is for the CPU)
endif
upper = $(shell echo $1 | tr a-z A-Z)
DEFINES = -DPRECISION_$(call upper,$(PRECISION)) $(if $(DEBUG),-DDEBUG) $(if $(REHEARSE),-DREHEARSAL) $(if $(filter $*,$(MODEL_TOOLS)),-DMODEL_$(call upper,$(lastword $(subst _, ,$*)))) -I.

# -march=native: the CPU kernels are plain vector code; override ARCH to build for another machine
ARCH ?= native
comma := ,
OPT ?= -O3
# -g1: the lines of its reports; -g takes half as long again to compile
OPTIMISE = $(if $(DEBUG),-O1 -g,$(if $(SANITIZE),-O1 -g1,$(OPT))) $(if $(SANITIZE),-fsanitize=address$(comma)undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
WARN := -Wall -Wextra
CPU_FLAGS = $(if $(filter aarch64 arm64,$(shell uname -m)),-mcpu=$(ARCH),-march=$(ARCH)) $(OPTIMISE) $(WARN) -Wno-maybe-uninitialized -Wno-nonnull $(if $(findstring clang,$(CXX)),-Wno-pass-failed)

.PHONY: all cpu gpu demo compare compare-inference test clean $(PROGRAMS) $(TOOLS)
all: $(PROGRAMS) $(TOOLS)
	@echo "built $(BUILD)/: $(strip $(PROGRAMS)), and $(strip $(TOOLS))"
cpu gpu:
	@$(MAKE) --no-print-directory DEVICE=$@ all
$(PROGRAMS): %: $(BUILD)/%
	@ln -sf $< $@
$(TOOLS): %: build/tools/%
	@ln -sf $< $@

ifeq ($(DEVICE),cpu)
# What cuBLASLt is on a GPU: compiled once, whatever the precision of the programs and however they are optimised
CUBLAS := build/cpu$(if $(DEBUG),-debug)$(if $(SANITIZE),-sanitize)/cublas.o
$(CUBLAS): override OPT := -O3
$(CUBLAS): dev/cpu/cublas.cpp dev/cpu/cucc | $(dir $(CUBLAS))
	CXX="$(CXX)" dev/cpu/cucc $(CPU_FLAGS) -MMD -MP -MF $@.d -c $< -o $@
$(BUILD)/%: dev/cpu/cucc dev/cpu/cuda.sed $(CUBLAS) | $(BUILD)
	CXX="$(CXX)" dev/cpu/cucc $(CPU_FLAGS) $(DEFINES) -MMD -MP -MF $@.d $(call source,$*) $(CUBLAS) -o $@
else
$(BUILD)/%: | $(BUILD)
	@PATH=$$PATH:/usr/local/cuda/bin; flags=$$(dev/gpu_flags.sh "$(NVCC)" "$(PRECISION)" "$(GPU_ARCH)") && set -x && \
	"$(NVCC)" -std=c++17 -O3 $(if $(DEBUG),-lineinfo) -Wno-deprecated-gpu-targets $$flags $(DEFINES) -MMD -MP -MF $@.d $(call source,$*) -o $@ -lcublasLt
endif
build/tools/%: | build/tools
	$(CXX) -std=c++17 -O2 $(WARN) -I. -MMD -MP -MF $@.d $(call source,$*) -o $@ -pthread
build/tools-sanitize/%: | build/tools-sanitize
	$(CXX) -std=c++17 -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all $(WARN) -I. -MMD -MP -MF $@.d $(call source,$*) -o $@ -pthread
$(BUILD) build/tools build/tools-sanitize $(dir $(CUBLAS)):
	@mkdir -p $@

# The programs depend on their sources by the .d files; these lines are for the first build
define depends
$(BUILD)/$1: $(call source,$1)
endef
$(foreach p,$(PROGRAMS) $(CUDA_TESTS) $(MODEL_TOOLS),$(eval $(call depends,$p)))
$(foreach p,$(TOOLS) $(HOST_TESTS),$(eval build/tools/$p build/tools-sanitize/$p: $(call source,$p)))
$(BUILD)/%.d build/tools/%.d build/tools-sanitize/%.d %.d: ;
ifneq ($(MAKECMDGOALS),clean)  # which must work when a power cut has damaged one
-include $(wildcard build/*/*.d)
endif

demo: train_rwkv prepare stories plot
	@dev/demo.sh
compare: train_rwkv $(if $(filter rwkv7,$(SIZE)),train_rwkv7,train_gpt2) prepare stories plot
	@dev/compare/compare.sh
compare-inference: $(addprefix $(BUILD)/,latency_rwkv4 latency_gpt2) plot
	@BIN=$(BUILD) dev/compare/compare-inference.sh
test:
	tests/run.sh
clean:
	rm -rf build $(PROGRAMS) $(TOOLS)
