# The common verbs; `cargo xtask` implements them (xtask/src/verbs.rs; `cargo xtask VERB --help`).
#
#   make          builds target/image/{kernel8.img,kernel.elf,initramfs.cpio}
#   make run      boots them in QEMU; ctrl-a x quits
#   make image    writes the files for a card: BOARD=rpi, or BOARD=generic for any board with U-Boot
#   make test     host tests, then the self-tests and contract cases: each board and each boot method once
#   make check    CI's command: format, lints, documentation, `make test`, then the remaining cases, budgets,
#                 fuzz tests, loom, Miri, and one mutant of each test program
#   make bench    benchmarks in guest instructions, next to Linux: a table, and target/report/index.html
#   make fuzz     fuzz tests of each parser and of the system calls (FUZZ_SECONDS=60 each, FUZZ_SEED=)
#   make foreign  Debian's programs (busybox, bash, coreutils), judged by Linux's recorded answers
#   make soak     soak test: random operations on 4 CPUs for TIME=10 minutes, from SEED= (default: the clock)
#   make inject   fault injection: each self-test repeatedly, each time with another failure (an hour)
#   make debug    boots stopped, with QEMU's gdb server on port 1234
#
# Parts of `make check`: make miri, loom, mutants (all of them), modules (cycles), prose, names.
# Selected cases: `cargo xtask test NAME..`.
#
# Knobs, on the command line or in the environment:
#   BOARD=virt-9.1  MEM=4G  SMP=4  APPEND="selftest"  INITRD=my.cpio  QEMU_ARGS="-device edu"
#   BENCH="alloc,map_*" for `make bench`: only these, without a report; BENCH=--stored: without running Linux

KNOBS := BOARD MEM SMP APPEND QEMU_ARGS INITRD BENCH TIME SEED
# A misspelt knob would be ignored.
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
UNKNOWN := $(filter-out $(KNOBS) CARGO% RUST% FUZZ_% PEER_% LOOM_% JUDGE_% MAKE%,$(GIVEN))
$(if $(strip $(UNKNOWN)),$(error unknown knob $(strip $(UNKNOWN)); known: $(KNOBS) FUZZ_SECONDS FUZZ_SEED))

export BOARD MEM SMP APPEND QEMU_ARGS INITRD

SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)

VERBS := build run image test check bench foreign inject debug miri loom mutants modules prose names
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

# cargo links host programs (xtask, the tests) with cc. xtask installs all other tools.
.PHONY: linker
linker:
	@command -v cc >/dev/null || { \
	  echo "installing gcc and libc6-dev: cargo links host programs with cc"; \
	  $(SUDO) apt-get update -q && $(SUDO) apt-get install -y -q --no-install-recommends gcc libc6-dev; }
