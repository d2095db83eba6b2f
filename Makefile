# Two commands matter: `make repro` and `make test`. Each works alone on a fresh clone.
VENV    ?= .venv
PYTHON  ?= $(shell command -v python3.11 || command -v python3)
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONHASHSEED := 0

# Programs of the live tests and of the lab; without them those tests are skipped, with the reason.
PACKAGES := fio sqlite3 rocksdb-tools trace-cmd linux-perf chromium clang libbpf-dev bpftool xfsprogs btrfs-progs qemu-system-x86 fuse3

# They record nothing on this host, so they run beside the tests that do, which have it for themselves.
OF_NO_HOST := tests/advisor tests/kernel tests/models tests/pipeline

# Two parts of the tests at the same time; what the first prints comes last.
define side_by_side
mkdir -p build; python -m pytest $(1) > build/side-by-side.log 2>&1 & other=$$!; \
python -m pytest $(2); status=$$?; wait $$other || status=1; cat build/side-by-side.log; exit $$status
endef

.PHONY: help repro test test-all test-kernel lint lock system-packages fuzz fuzz-readahead check-reproducible calibrate docs bpf zipapp bench clean

help:  ## this list
	@awk -F':.*##' '/^[a-z-]+:.*##/ {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

repro: $(STAMP)  ## run the pipeline; print the verdict and where the report is
	@dvc repro
	@hindsight pipeline show

test: $(STAMP) system-packages  ## lint, and run the tests
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory bpf >/dev/null || echo "no BPF programs: the tests that need them are skipped"
	@$(call side_by_side,-m "not slow" $(OF_NO_HOST),-m "not slow" $(addprefix --ignore ,$(OF_NO_HOST)))

test-all: $(STAMP) system-packages  ## the slow tests too
	@$(MAKE) --no-print-directory bpf >/dev/null || echo "no BPF programs: the tests that need them are skipped"
	@python -m pytest

fuzz: $(STAMP)  ## more than three million damaged inputs for the parsers of capture (half an hour)
	@python tests/fuzz/run.py

test-kernel: $(STAMP) system-packages  ## the tests that boot other kernels in QEMU (Debian's 6.1; a minute and a half)
	@$(call side_by_side,tests/kernel/test_probes.py,tests/kernel --ignore tests/kernel/test_probes.py)

# Under a memory limit, of several tasks, and of a cache that was warm, not every decision is in the record: there the share counts.
fuzz-readahead: $(STAMP) bpf  ## the replay against the kernel on random programs at 64, 128 and 8192 KB (root; half an hour)
	@for kb in 64 128 8192; do hindsight lab fuzz-readahead --seed $${SEED:-1} --seeds $${SEEDS:-200} --tasks 1 \
	  --read-ahead-kb $$kb --ways buffered,descriptors,advice,sendfile,splice,copy,ring,processors,mapping || exit 1; \
	  hindsight lab fuzz-readahead --seed $${SEED:-1} --seeds $${SEEDS:-100} --tasks 1 --read-ahead-kb $$kb \
	  --ways writing || exit 1; done
	@-for kb in 64 128 8192; do hindsight lab fuzz-readahead --seed $${SEED:-1} --seeds $${SEEDS:-70} --tasks 1 \
	  --read-ahead-kb $$kb --ways buffered,descriptors,advice --evict; done
	@-hindsight lab fuzz-readahead --seed $${SEED:-1} --seeds $${SEEDS:-200} --ways sharing
	@-hindsight lab fuzz-readahead --seed $${SEED:-1} --seeds $${SEEDS:-100} --tasks 1 --ways warm

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 is missing: apt-get install python3 python3-venv" >&2; exit 3; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "Python 3.11 is needed (the lock file is for it); name one: make PYTHON=/path/to/python3.11 …" >&2; exit 3; }
	@command -v git >/dev/null || { echo "git is missing: apt-get install git" >&2; exit 3; }
	@"$(PYTHON)" -m venv $(VENV) || { echo "the venv module is missing: apt-get install python3-venv" >&2; exit 3; }
	@echo "installing the locked packages into $(VENV) …"
	@# uv unpacks in seconds what takes pip a minute; it comes out of the same hash-locked file.
	@sed -n '/^uv==/,/^    # via/p' requirements.lock > $(VENV)/uv.lock
	@pip install --quiet --no-deps --require-hashes -r $(VENV)/uv.lock
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) uv pip install --quiet --no-deps --require-hashes --compile-bytecode -r requirements.lock || \
	  pip install --quiet --no-deps --require-hashes -r requirements.lock
	@pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

system-packages: $(STAMP)
	@if command -v dpkg-query >/dev/null; then \
	  missing=""; for p in $(PACKAGES); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	  if [ -n "$$missing" ]; then \
	    if [ "$$(id -u)" = 0 ]; then echo "installing$$missing …"; \
	      { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; } >/dev/null 2>&1 || \
	        echo "could not install$$missing: the tests that need them will be skipped"; \
	    else echo "not installed:$$missing (the tests that need them are skipped; apt-get install$$missing)"; fi; \
	  fi; fi
	@# The kernels of the guests are unpacked below build/, not installed.
	@python tests/kernel/debian.py

lint: $(STAMP)  ## ruff and mypy
	@ruff check .
	@rm -rf build/typing && mkdir -p build/typing/hindsight
	@ln -s $(CURDIR)/hindsight/*.py build/typing/hindsight/
	@for room in capture subsystems models pipeline advisor lab; do ln -s $(CURDIR)/$$room build/typing/hindsight/$$room; done
	@MYPYPATH=build/typing mypy -p hindsight

lock: $(STAMP)  ## resolve pyproject.toml again into requirements.lock
	@uv pip compile pyproject.toml --upgrade --generate-hashes --python-version 3.11 \
	  --extra pipeline --extra lab --extra test --extra build \
	  --custom-compile-command "make lock" --output-file requirements.lock >/dev/null

check-reproducible: $(STAMP)  ## run the pipeline again without AVX2 and FMA, and compare every output
	@python tests/pipeline/reproducible.py

# The blocks that `make repro` left; it takes some minutes.
calibrate: $(STAMP)  ## false winners and power of the statistics, on real data whose truth is known (minutes)
	@dvc repro --quiet evaluate
	@hindsight pipeline calibrate

docs: $(STAMP)  ## write the generated pages of docs/
	@python docs/generate.py

# Compiled once, for any kernel that describes its types; hosts that record need libbpf alone, neither clang nor headers.
BPF_OBJECTS := $(patsubst %.c,%.o,$(wildcard capture/bpf/*.bpf.c))
bpf: $(BPF_OBJECTS)  ## compile the BPF programs, for --open-files (clang, libbpf-dev)

%.bpf.o: %.bpf.c
	@command -v clang >/dev/null && test -e /usr/include/bpf/bpf_helpers.h || \
	  { echo "clang or the headers of libbpf are missing: apt-get install clang libbpf-dev" >&2; exit 3; }
	@clang -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Wno-unused-parameter -ffile-prefix-map=$(CURDIR)=. \
	  -idirafter /usr/include/$$(uname -m)-linux-gnu -c $< -o $@

# The byte code is that of this Python; another one compiles the sources, which are in there too.
ZIPAPP ?= build/hindsight.pyz
zipapp:  ## one file that records with python3 alone: build/hindsight.pyz
	@$(MAKE) --no-print-directory bpf >/dev/null || echo "without the BPF programs: it cannot --open-files" >&2
	@rm -rf $(ZIPAPP).d && mkdir -p $(ZIPAPP).d/hindsight
	@cp hindsight/*.py $(ZIPAPP).d/hindsight/
	@find capture subsystems models pipeline advisor lab \( -name '*.py' -o -path 'capture/operation/units/*' \
	  -o -path 'capture/operation/share/*' -o -name '*.bpf.o' \) -exec cp --parents -t $(ZIPAPP).d/hindsight {} +
	@printf 'import sys\n\nfrom hindsight.command import main\n\nsys.exit(main())\n' > $(ZIPAPP).d/__main__.py
	@"$(PYTHON)" -m compileall -q -b --invalidation-mode unchecked-hash $(ZIPAPP).d
	@find $(ZIPAPP).d -exec touch -d @315532800 {} +
	@"$(PYTHON)" -m zipapp -c -p '/usr/bin/env python3' -o $(ZIPAPP) $(ZIPAPP).d
	@rm -rf $(ZIPAPP).d
	@echo $(ZIPAPP)

bench: $(STAMP)  ## the benchmarks, side by side with the alternatives
	@for b in benchmarks/*.py benchmarks/capture; do echo "== $$b"; python $$b || exit 1; done

clean:  ## remove the virtual environment and what was built (not the DVC cache)
	@rm -rf $(VENV) build *.egg-info $(BPF_OBJECTS)
