# make demo    plays the product on this machine: two buyers, two sellers, five guests (needs root)
# make test    runs all tests (needs root: the lab makes network namespaces)
# make bench   prints the figures; ROUNDS=3 SECS=4
# make bench-vm  the same for a real machine on the segment, next to one on a plain bridge
# make bench-walls  what the walls around a guest cost, taken away one after the other
# make storm   100 sellers join at once: how long, at what cost (needs root)
# make soak    kills of any process under attack and at each step of their set-up and end, the egress
#              guard's budgets over five minutes (both need root), then the simulation over many
#              seeds; KILLS=300 SEEDS=200000 FROM=0
# make mutants takes one defence out at a time and runs the test that owns it (a build each);
#              ONLY=F08 for those whose names begin so
# make build   the programs: overlay-gw, overlay-seller
# make man     the man pages of both programs, in target/man
# make deb     the Debian package of both, and one of their line tables, in target (or
#              CARGO_TARGET_DIR); DEBEMAIL and DEBFULLNAME name who builds it
# make lint    rustfmt, clippy and rustdoc, as in .ci/run

CARGO ?= cargo
ROUNDS ?= 3
SECS ?= 4
KILLS ?= 300
SEEDS ?= 200000
FROM ?= 0
ONLY ?=
# One profile and one set of packages for everything, so that each crate is compiled once: cargo
# would build some again for a single package, whose features unite otherwise.
PROGRAMS = $${CARGO_TARGET_DIR:-target}/release

.PHONY: build demo test bench bench-vm bench-walls storm soak mutants man deb lint preflight clean

build:
	@$(CARGO) build --release --workspace

demo: preflight build
	@exec $(PROGRAMS)/overlay-demo

test: preflight build
	$(CARGO) test --release --workspace

bench: preflight build
	@exec $(PROGRAMS)/overlay-bench --rounds $(ROUNDS) --secs $(SECS)

bench-vm: preflight build
	@exec $(PROGRAMS)/overlay-bench --vm --rounds $(ROUNDS) --secs $(SECS)

bench-walls: preflight build
	@exec $(PROGRAMS)/overlay-bench --walls --rounds $(ROUNDS) --secs $(SECS)

storm: preflight build
	@exec $(PROGRAMS)/overlay-storm

soak: preflight build
	@$(PROGRAMS)/overlay-soak --kills $(KILLS)
	@$(PROGRAMS)/overlay-soak --steps 1
	$(CARGO) test --release --workspace --test guard -- --ignored in_a_whole_window
	@exec $(PROGRAMS)/overlay-soak --seeds $(SEEDS) --from $(FROM)

mutants: preflight build
	@exec $(PROGRAMS)/overlay-mutants $(ONLY)

man: build
	@deploy/man.sh $(PROGRAMS) target/man

deb: build
	@deploy/deb.sh $(PROGRAMS) $${CARGO_TARGET_DIR:-target}

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --release --workspace --no-deps \
		--document-private-items

preflight:
	@deploy/preflight.sh

clean:
	$(CARGO) clean
