# The front door. `make help` lists what there is.
.DEFAULT_GOAL := help
.PHONY: help deps build-deps build install programs demo device-programs device qemu test test-kernel test-debian test-device test-long test-quiet unit integration lint bench fuzz audit debian

# What compiling takes, and what the daemon calls and the tests try besides.
BUILD_PACKAGES := build-essential libssl-dev pkg-config
PACKAGES := $(BUILD_PACKAGES) btrfs-progs busybox-static cryptsetup-bin e2fsprogs iproute2 nftables openssl shellcheck softhsm2 squashfs-tools strace
BENCH_PACKAGES := crun runc
KERNEL_PACKAGES := binutils cpio dmsetup kmod lz4 qemu-system-x86 xz-utils zstd
DEVICE_PACKAGES := $(KERNEL_PACKAGES) fdisk mtools ovmf
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
# Programs that run inside containers must not need the container's libraries.
STATIC := RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --target $(HOST)
OUT := out

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## Install the packages that are missing (as root, Debian or Ubuntu)
	@integration/deps.sh $(PACKAGES)

build-deps:
	@integration/deps.sh $(BUILD_PACKAGES)

build: build-deps ## Compile cmld, control and cml-init, optimised
	cargo build --release --locked -p cmld -p control-cli
	$(STATIC) --release -p cml-init
	@install -D target/$(HOST)/release/cml-init target/release/cml-init

# Where the programs come from, and what they are installed below.
PROGRAMS := target/release
PREFIX := /usr/local
SHARE = $(DESTDIR)$(PREFIX)/share
DOC = $(SHARE)/doc/cml
# systemd looks below no other prefix than these two.
LOOKED_INTO = $(if $(filter /usr /usr/local,$(PREFIX)),$(PREFIX),/usr/local)
UNITDIR = $(LOOKED_INTO)/lib/systemd/system
SYSUSERSDIR = $(LOOKED_INTO)/lib/sysusers.d

# Programs of another directory were built before.
install: $(if $(filter target/release,$(PROGRAMS)),build) ## Install for this host below PREFIX (/usr/local), with a systemd unit and completions
	install -D -t $(DESTDIR)$(PREFIX)/sbin $(PROGRAMS)/cmld
	install -D -t $(DESTDIR)$(PREFIX)/bin $(PROGRAMS)/control
	ln -sf control $(DESTDIR)$(PREFIX)/bin/cml-control
	install -D -t $(DESTDIR)$(PREFIX)/libexec/cml $(PROGRAMS)/cml-init
	install -D -m 644 -t $(DOC) README.md ARCHITECTURE.md
	install -D -m 644 -t $(DOC)/docs docs/*.md
	install -D -m 644 -t $(DOC)/docs/adr docs/adr/*.md
	install -D -m 644 -t $(DOC)/images images/README.md
	mkdir -p $(SHARE)/bash-completion/completions $(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d
	$(PROGRAMS)/control completions bash >$(SHARE)/bash-completion/completions/control
	$(PROGRAMS)/control completions zsh >$(SHARE)/zsh/site-functions/_control
	$(PROGRAMS)/control completions fish >$(SHARE)/fish/vendor_completions.d/control.fish
	install -D -m 644 images/host/sysusers.conf $(DESTDIR)$(SYSUSERSDIR)/cml.conf
	install -D -m 644 images/host/cmld.service $(DESTDIR)$(UNITDIR)/cmld.service
	sed -i 's|@PREFIX@|$(PREFIX)|g' $(DESTDIR)$(UNITDIR)/cmld.service

# What a device runs; `control` is in guests as well, and needs none of their libraries.
device-programs: deps build
	@integration/deps.sh $(DEVICE_PACKAGES)
	$(STATIC) --release -p control-cli
	@install -D -t $(OUT)/programs target/release/cmld target/release/cml-init target/$(HOST)/release/control

device: device-programs ## Build a bootable device, with a disk image, into out/device
	images/device/build.sh $(OUT)/device --programs $(OUT)/programs

qemu: ## Boot what `make device` has built, with a console in core0
	images/device/qemu.sh $(OUT)/device

demo: deps build ## The main job, from an empty directory to a removed container, explained
	@integration/demo.sh target/release $(OUT)

# What the integration tests run: unoptimised, with the probe for the guest.
programs: deps
	cargo build --locked -p cmld -p control-cli
	$(STATIC) -p cml-init -p cml-probe -p control-cli
	$(STATIC) -p cml-sys --example hostile
	@install -D -t target/debug/static \
	  $(addprefix target/$(HOST)/debug/,cml-init cml-probe control examples/hostile)

unit: deps ## Run the tests that need no daemon
	cargo test --workspace --locked --exclude cml-integration
	shellcheck -x -P SCRIPTDIR images/*.sh images/*/*.sh integration/*.sh integration/vm/*.sh
	shellcheck -s sh integration/vm/init images/device/initramfs-init images/device/root/etc/device/* \
	  images/device/root/etc/acpi/*/* images/busybox/rootfs/etc/*.script

integration: programs ## Run the tests of the whole system (as root)
	integration/clean.sh cargo test --locked --no-fail-fast -p cml-integration -- --test-threads 6

test-quiet: programs ## Run the tests that compare times, on a machine that does nothing else
	integration/clean.sh cargo test --locked -p cml-integration --test robustness -- --ignored hogs::

# The same tests, as often as it takes to believe that nothing leaks; in `make test` they repeat things a few times.
test-long: programs ## Run the tests that repeat something 1000, 200 and 100 times (as root, many minutes)
	CML_CYCLES=1000 cargo test --locked -p cml-network --test networks -- nothing_leaks
	CML_CYCLES=1000 integration/clean.sh cargo test --locked -p cml-integration --test functional -- \
	  exec::aborted_sessions
	CML_CYCLES=200 integration/clean.sh cargo test --locked -p cml-integration --test functional -- \
	  network::a_card_survives
	CML_CYCLES=100 integration/clean.sh cargo test --locked -p cml-integration --test functional -- \
	  network::many_containers

test: lint unit integration demo test-kernel ## Run the tests that need no device, no long time and no quiet machine

# One boot of another kernel, with the programs that the demonstration has built. Where Debian has no kernel for us, the tests
# of this machine are all that can be had, and that is said.
test-kernel: programs build ## Run the shortest tests of device-mapper and control groups version 2, in QEMU
	@integration/deps.sh $(KERNEL_PACKAGES)
	@CML_PROGRAMS=target/release integration/vm/test-device.sh --short || \
	  { [ $$? -eq 69 ] && echo "SKIPPED: the tests that need another kernel (there is none to be had)"; }

# The tests on this machine only make the kit for those in the other ones.
test-device: programs device-programs ## Run the tests that need device-mapper or a device that boots, in QEMU (as root)
	cargo test --locked -p cml-integration --test functional -- command_line
	CML_PROGRAMS=$(OUT)/programs integration/vm/test-all.sh

test-debian: programs debian ## Run the tests of a guest with systemd (as root, minutes)
	integration/clean.sh cargo test --locked -p cml-integration --test functional -- --ignored debian

lint: deps ## Lint; warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

bench: deps build ## Measure, side by side with crun and runc
	@integration/deps.sh $(BENCH_PACKAGES)
	$(STATIC) --release -p cml-probe
	@install -D -t target/release/static target/$(HOST)/release/cml-init target/$(HOST)/release/cml-probe
	cargo run --release --locked -p cml-bench

fuzz: ## Fuzz the parsers for a minute each (needs `cargo install cargo-fuzz`)
	cd protocol/wire && for target in frame control_message container_conf guestos_conf; do \
	  mkdir -p fuzz/corpus/$$target && RUSTC_BOOTSTRAP=1 cargo fuzz run $$target \
	    fuzz/corpus/$$target fuzz/seeds/$$target -- -max_total_time=60 || exit 1; \
	done

audit: ## Check licences and who depends on what (needs `cargo install cargo-deny`)
	cargo deny check licenses bans sources

debian: deps ## Build a Debian guest with systemd into out/ (minutes, needs a package mirror)
	@integration/deps.sh debootstrap
	images/pki/make-pki.sh $(OUT)/pki
	images/debian/build.sh $(OUT)/operatingsystems --key $(OUT)/pki/ssig_cml.key --cert $(OUT)/pki/ssig_cml.cert
