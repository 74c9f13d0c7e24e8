# The front door. `make help` lists what there is.
.DEFAULT_GOAL := help
.PHONY: help deps build demo test lint

PACKAGES := build-essential busybox-static libssl-dev openssl pkg-config shellcheck squashfs-tools
OUT := out

help: ## List the targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## Install the packages that are missing (as root, Debian or Ubuntu)
	@missing=$$(for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  echo "installing" $$missing; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qqy $$missing >/dev/null; \
	fi

build: deps ## Compile everything; cml-init is linked statically
	cargo build --release --locked --workspace --exclude cml-init
	RUSTFLAGS='-C target-feature=+crt-static' \
	  cargo build --release --locked -p cml-init --target $$(rustc -vV | sed -n 's/^host: //p')

demo: build ## Make a test PKI, build a guest image and sign it
	@rm -rf $(OUT) && mkdir -p $(OUT)
	@echo "== a test PKI: root, intermediate and the software signer"
	@images/pki/make-pki.sh $(OUT)/pki
	@echo "== a busybox guest, as squashfs, with its signed configuration"
	@images/busybox/build.sh $(OUT)/operatingsystems --key $(OUT)/pki/ssig_cml.key --cert $(OUT)/pki/ssig_cml.cert
	@echo "== what came out"; find $(OUT) -type f | sort

test: deps ## Run all tests
	cargo test --workspace --locked
	shellcheck -x -P SCRIPTDIR images/*.sh images/*/*.sh
	$(MAKE) --no-print-directory demo

lint: deps ## Lint; warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
