# make run    build, start a playground in ./local and send a first mail through it
# make stop   stop the playground
# make test   install what the tests need, then format check, lints and all tests
# make bench  load benchmarks beside Postfix, and the microbenchmarks

.PHONY: run stop test bench build packages test-packages lint fuzz-smoke

CARGO ?= cargo

packages:
	@scripts/packages.sh build

test-packages:
	@scripts/packages.sh build test

build: packages
	$(CARGO) build --release --locked

run: build
	@scripts/playground.sh start

stop:
	@scripts/playground.sh stop

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

test: test-packages lint
	scripts/python-tests.sh
	$(CARGO) build --workspace --locked
	$(CARGO) test --workspace --locked

bench: test-packages
	$(CARGO) build --release --locked
	bench/run.sh
	$(CARGO) bench --locked -p spool --bench commit
	$(CARGO) bench --locked -p queue --bench queue
