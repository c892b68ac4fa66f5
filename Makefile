# make run    build, start a playground in ./local and send a first mail through it
# make stop   stop the playground
# make test   install what the tests need, then format check, lints and all tests
# make fuzz-smoke  a short run of every fuzz target; installs cargo-fuzz when it is missing
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
	scripts/node-tests.sh
	scripts/exim.sh
	$(CARGO) build --workspace --locked
	$(CARGO) test --workspace --locked
	$(CARGO) test -p queue --features defects --test mutants --locked

bench: test-packages
	$(CARGO) build --release --locked
	bench/run.sh
	bench/queue.sh
	$(CARGO) bench --locked -p spool --bench commit
	$(CARGO) bench --locked -p queue --bench queue
	$(CARGO) bench --locked -p mail --bench mime

# The targets are instrumented by a compiler flag that is not stable yet; the variable lets a stable compiler take it.
FUZZ_RUNS ?= 20000
fuzz-smoke:
	@scripts/packages.sh build fuzz
	command -v cargo-fuzz >/dev/null || $(CARGO) install cargo-fuzz --locked
	RUSTC_BOOTSTRAP=1 $(CARGO) fuzz build -s none
	mkdir -p fuzz/corpus/compile fuzz/corpus/run fuzz/corpus/mail_message fuzz/corpus/mail_fields
	RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run -s none compile fuzz/corpus/compile fuzz/seeds/compile tests/conformance/hsl \
		tests/conformance/hsl/errors -- -runs=$(FUZZ_RUNS) -max_len=400 -timeout=10 -rss_limit_mb=1000
	RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run -s none run fuzz/corpus/run fuzz/seeds/run \
		-- -runs=$(FUZZ_RUNS) -max_len=300 -timeout=10 -rss_limit_mb=1000
	for target in mail_message mail_fields; do \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run -s none $$target fuzz/corpus/$$target fuzz/seeds/$$target \
			-- -runs=$(FUZZ_RUNS) -max_len=2000 -timeout=10 -rss_limit_mb=1000 || exit 1; \
	done
	mkdir -p fuzz/corpus/smtp_server
	RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run -s none smtp_server fuzz/corpus/smtp_server fuzz/seeds/smtp_server \
		-- -runs=$(FUZZ_RUNS) -max_len=1000 -timeout=10 -rss_limit_mb=1000
	mkdir -p fuzz/corpus/std_decode
	RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run -s none std_decode fuzz/corpus/std_decode -- -runs=$(FUZZ_RUNS) -max_len=300 -timeout=10 -rss_limit_mb=1000
	mkdir -p fuzz/corpus/std_pack
	RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run -s none std_pack fuzz/corpus/std_pack -- -runs=$(FUZZ_RUNS) -max_len=300 -timeout=10 -rss_limit_mb=1000
	mkdir -p fuzz/corpus/std_regex
	RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run -s none std_regex fuzz/corpus/std_regex -- -runs=$(FUZZ_RUNS) -max_len=300 -timeout=10 -rss_limit_mb=1000
