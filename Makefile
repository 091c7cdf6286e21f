# GNU make 3.81 and the shells of Linux and macOS are enough.
PYTHON      ?= python3
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
BIN         := .venv/bin
READY       := .venv/.ready
NEEDS_VENV   = @test -f $(READY) || { echo "there is no finished .venv here: run 'make test' (or 'make demo') first, which makes it" >&2; exit 1; }

ifneq ($(filter-out cpu,$(TORCH)),)
$(error TORCH=$(TORCH) is not known: write TORCH=cpu for PyTorch's CPU builds, or leave it out)
endif

.DEFAULT_GOAL := help
.PHONY: demo test lab lib readme bench gan cross conversion losses ssl pictures reproduce clean help
CORPUS      ?= emovo-4
PAIR        ?= ravdess-emovo
SOURCE      ?= librispeech
SPEAKER     ?= IC0
EMOTIONS    ?= angry happy sad
ENCODER     ?= whisper-base

demo: $(READY) ## exp2 on the demo corpus, all five sessions, then the pooled table (TORCH=cpu: no GPU packages)
	for n in 0 1 2 3 4; do $(BIN)/ser-nb exp2 -f params/exp2/demo.yaml -p session $$n || exit 1; done
	$(BIN)/ser-nb results exp2 -f params/exp2/demo.yaml

test: $(READY) ## pytest, then every notebook with nbdev_test (TORCH=cpu: no GPU packages)
	@failed=0; $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile || failed=1; $(BIN)/nbdev_test --n_workers 2 --do_print --timing || failed=1; exit $$failed

lab: ## JupyterLab on the notebooks
	$(NEEDS_VENV)
	$(BIN)/jupyter lab nbs

lib: ## the library from the notebooks, and the notebooks cleaned
	$(NEEDS_VENV)
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

readme: ## README.md from nbs/index.ipynb
	$(NEEDS_VENV)
	$(BIN)/python tools/readme.py

bench: ## every side-by-side measurement of benchmarks/, kept in outputs/recorded/benchmarks.txt (about 5 minutes)
	$(NEEDS_VENV)
	for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done > outputs/recorded/benchmarks.part
	mv outputs/recorded/benchmarks.part outputs/recorded/benchmarks.txt
	cat outputs/recorded/benchmarks.txt

gan: ## exp1 and exp2 of the feature CycleGAN and what stands beside it, then their table: make gan CORPUS=iemocap SOURCE=tedlium2
	$(NEEDS_VENV)
	for protocol in corrected faithful; do \
	  run="$(BIN)/ser-nb exp2 -f params/exp2/$(CORPUS).yaml -p session all -p protocol $$protocol $(RECORD)"; \
	  $$run -p train_on real || exit 1; \
	  for rows in syn real+syn; do for lambda in 0 1 2 3; do $$run -p train_on $$rows -p lambda_cls $$lambda -p source $(SOURCE) || exit 1; done; done; \
	  done; \
	$(BIN)/ser-nb exp1 -f params/exp1/$(CORPUS).yaml -p source $(SOURCE) $(RECORD) || exit 1; \
	$(BIN)/ser-nb exp1 -f params/exp1/$(CORPUS).yaml -f params/exp1/faithful.yaml -p source $(SOURCE) $(RECORD) || exit 1; \
	run="$(BIN)/ser-nb exp2 -f params/exp2/$(CORPUS).yaml -p session all $(RECORD)"; \
	for rows in syn real+syn; do for kind in gaussian mixup smote aae; do $$run -p train_on $$rows -p augment $$kind -p source $(SOURCE) || exit 1; done; done; \
	for share in 0.5 0.25 0.1; do $$run -p train_on real -p share $$share || exit 1; \
	  for kind in gan gaussian; do $$run -p train_on real+syn -p augment $$kind -p source $(SOURCE) -p share $$share || exit 1; done; done
	$(BIN)/ser-nb results exp2 -f params/exp2/$(CORPUS).yaml

cross: ## exp3, from one corpus to another, for every kind of training rows: make cross PAIR=iemocap-msp_improv SOURCE=tedlium2
	$(NEEDS_VENV)
	for protocol in corrected faithful; do \
	  run="$(BIN)/ser-nb exp3 -f params/exp3/$(PAIR).yaml -p protocol $$protocol $(RECORD)"; \
	  $$run -p train_on real || exit 1; \
	  for rows in syn real+syn; do for lambda in 0 1 2 3; do $$run -p train_on $$rows -p lambda_cls $$lambda -p source $(SOURCE) || exit 1; done; done; done; \
	for kind in gaussian mixup smote aae; do $(BIN)/ser-nb exp3 -f params/exp3/$(PAIR).yaml -p train_on real+syn -p augment $$kind -p source $(SOURCE) $(RECORD) || exit 1; done
	$(BIN)/ser-nb results exp3 -f params/exp3/$(PAIR).yaml

conversion: ## converters between neutral and each emotion of a nEMO speaker, both directions tested: make conversion SPEAKER=WR0 EMOTIONS=angry
	$(NEEDS_VENV)
	for emotion in $(EMOTIONS); do \
	  $(BIN)/ser-nb train_conversion -f params/train_conversion/nemo.yaml -p speaker $(SPEAKER) -p target $$emotion $(RECORD) || exit 1; \
	  run="$(BIN)/ser-nb exp4 -f params/exp4/nemo.yaml -p speaker $(SPEAKER) $(RECORD)"; \
	  if [ $(SPEAKER)-$$emotion = IC0-angry ]; then $$run || exit 1; else $$run -f params/exp4/pairs.yaml -p target $$emotion || exit 1; fi; \
	  $$run -f params/exp4/pairs.yaml -p source $$emotion -p target neutral || exit 1; done

losses: ## exp4 with one loss off or on, short trainings of one pair
	$(NEEDS_VENV)
	run="$(BIN)/ser-nb exp4 -f params/exp4/nemo.yaml -f params/exp4/short.yaml $(RECORD)"; \
	$$run || exit 1; $$run -p protocol faithful -p iterations 1200 || exit 1; \
	for loss in "lambda_adv 0" "lambda_cyc 0" "lambda_id 0" "lambda_cls 1"; do $$run -p $$loss || exit 1; done

ssl: ## exp7 and exp8 of an encoder under SER_NB_WEIGHTS: frozen, after fine-tuning elsewhere, fine-tuned whole, the design over seeds, layers (2 hours on 2 cores): make ssl ENCODER=whisper-base
	$(NEEDS_VENV)
	run="$(BIN)/ser-nb exp7 -p encoder $(ENCODER) --record"; \
	$$run -f params/exp7/emovo.yaml || exit 1; $$run -f params/exp7/emovo.yaml -f params/exp7/pre.yaml || exit 1; \
	$$run -f params/exp7/ravdess.yaml || exit 1; $$run -f params/exp7/ravdess.yaml -f params/exp7/full.yaml || exit 1; \
	$$run -f params/exp7/design.yaml -p first 3 -p factors "{layers: 3}" || exit 1; $$run -f params/exp7/design.yaml -p factors "{layers: 6}" || exit 1; \
	for corpus in emovo ravdess; do $(BIN)/ser-nb exp8 -f params/exp8/$$corpus.yaml -p encoders "[$(ENCODER)]" --record || exit 1; done

pictures: ## exp6: each of four corpora tested in turn by a linear SVM and by transformers on spectrograms, without and with a speaker's vector; then three classes, and a speaker network that is trained, on EMOVO (90 minutes on 2 cores)
	$(NEEDS_VENV)
	for corpus in emovo ravdess nemo urdu; do for model in svm cct speaker_vgg_cct speaker_vgg_cct_end_to_end speaker_vgg_cct_end_to_end_speaker_token; do \
	  $(BIN)/ser-nb exp6 -f params/exp6/$$corpus.yaml -p model $$model --record || exit 1; done; \
	  $(BIN)/ser-nb exp6 -f params/exp6/$$corpus.yaml -p model svm -p features ge2e --record || exit 1; done; \
	run="$(BIN)/ser-nb exp6 -f params/exp6/emovo.yaml --record"; \
	for model in svm cct speaker_vgg_cct_end_to_end; do $$run -p classes 3 -p model $$model || exit 1; done; \
	$$run -p model speaker_cct_trained -p speaker_width 0.0625 -p high_seed 0

reproduce: ## every run and audit behind outputs/recorded/ again, from the corpora in SER_NB_DATA (nine to ten hours on two cores)
	$(NEEDS_VENV)
	for corpus in emovo ravdess; do for system in svm svm-speaker mlp mlp-speaker mlp-1e-5 mlp-faithful; do for n in 0 1 2 3 4 5; do \
	  $(BIN)/ser-nb exp2 -f params/exp2/$$corpus.yaml -f params/exp2/$$system.yaml -p session $$n --record || exit 1; done; done; done
	for corpus in emovo-4 ravdess-4; do $(MAKE) gan CORPUS=$$corpus RECORD=--record || exit 1; done
	for pair in ravdess-emovo emovo-ravdess; do $(MAKE) cross PAIR=$$pair RECORD=--record || exit 1; done
	$(MAKE) conversion RECORD=--record
	$(MAKE) conversion SPEAKER=WR0 EMOTIONS=angry RECORD=--record
	$(MAKE) losses RECORD=--record
	$(BIN)/ser-nb train_conversion -f params/train_conversion/nemo.yaml -p kind style -p iterations 1500 --record
	for way in "source neutral -p target angry" "source angry -p target neutral"; do $(BIN)/ser-nb exp4 -f params/exp4/nemo.yaml -f params/exp4/pairs.yaml -p kind style -p iterations 1500 -p $$way --record || exit 1; done
	$(BIN)/ser-nb train_conversion -f params/train_conversion/ravdess.yaml --record
	$(BIN)/ser-nb exp4 -f params/exp4/ravdess.yaml -f params/exp4/pairs.yaml --record
	$(BIN)/ser-nb exp5 -f params/exp5/nemo.yaml --record
	$(MAKE) ssl
	$(MAKE) pictures
	for corpus in emovo ravdess urdu nemo; do $(BIN)/ser-nb audit $$corpus -o outputs/recorded/audit/$$corpus > /dev/null || exit 1; done

clean: ## remove the cache, build files and every output that is not recorded; .venv stays
	rm -rf .cache build dist _docs _proc ser_nb.egg-info .pytest_cache .ruff_cache
	find outputs -mindepth 1 -maxdepth 1 ! -name recorded ! -name .gitkeep -exec rm -rf {} +
	find . -name .venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

help: ## this list
	@grep -E '^[a-z]+:.*## ' Makefile | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

# Touched last: an installation that was killed half-way is done again.
$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON) here: install Python 3.11 or newer, or name one: make test PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit("$(PYTHON) is Python %d.%d and ser_nb needs 3.11 or newer: name another one, e.g. make test PYTHON=python3.12" % v[:2] if v < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
ifeq ($(TORCH),cpu)
	$(BIN)/pip install --no-deps --index-url $(TORCH_INDEX) $$(grep -E '^torch(audio)?==' requirements.lock)
endif
	$(BIN)/pip install -r requirements.lock
	$(BIN)/pip install --no-deps --no-build-isolation -e .
	@touch $@
