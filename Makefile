# The common verbs; `cargo xtask` implements them (xtask/src/main.rs).
#
#   make          build target/image/{kernel8.img,kernel.elf,initramfs.cpio}
#   make run      boot them under QEMU; ctrl-a x ends it
#   make image    the files for a card: BOARD=rpi, or BOARD=generic for any board with U-Boot
#   make test     host tests, then the self-tests and contract cases: each board and each kind of boot once
#   make check    what CI runs: format, lints, documentation, `make test`, then the rest of the matrix, budgets, fuzzing,
#                 loom, Miri, and one mutant of each oracle
#   make bench    measure in guest instructions, next to Linux: a table, and target/report/index.html
#   make fuzz     random input for each parser and system call (FUZZ_SECONDS=60 each, FUZZ_SEED=)
#   make soak     random work of all kinds on 4 CPUs for TIME=10 minutes, from SEED= (another one each time)
#   make inject   each self-test repeatedly, each time with another operation failing: up to an hour
#   make debug    boot stopped, waiting for gdb on port 1234
#
# Parts of `make check` by themselves: make miri, loom, mutants (all of them), modules (cycles), prose, names.
# Only some cases: `cargo xtask test NAME..`.
#
# Knobs, on the command line or in the environment:
#   BOARD=virt-9.1  MEM=4G  SMP=4  APPEND="selftest"  INITRD=my.cpio  QEMU_ARGS="-device edu"
#   BENCH="alloc,map_*" for `make bench`: only these, without a report; BENCH=--stored: without running Linux

export BOARD MEM SMP APPEND QEMU_ARGS INITRD

SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)

VERBS := build run image test check bench inject debug miri loom mutants modules prose names
.PHONY: $(VERBS)
$(VERBS): | linker
	@cargo xtask $@ $(if $(filter bench,$@),$(BENCH:%='%'))

.DEFAULT_GOAL := build

# Optimised, with debug assertions.
.PHONY: fuzz
fuzz: export FUZZ_SECONDS ?= 60
fuzz: | linker
	@cargo test --profile judge --package kernel --test fuzz -- --nocapture --test-threads 2

TIME ?= 10
SEED ?= $(shell date +%s)
.PHONY: soak
soak: | linker
	@mkdir -p target
	@APPEND="soak=$(TIME):$(SEED) lowmem=256M" QEMU_ARGS="-device edu $(QEMU_ARGS)" cargo xtask run </dev/null \
	  | tee target/soak.log
	@grep -q "^soak: passed" target/soak.log

# cargo links host programs (xtask, the tests) with cc; xtask installs everything else.
.PHONY: linker
linker:
	@command -v cc >/dev/null || { \
	  echo "installing gcc and libc6-dev: cargo links host programs with cc"; \
	  $(SUDO) apt-get update -q && $(SUDO) apt-get install -y -q --no-install-recommends gcc libc6-dev; }
