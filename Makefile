# Every command sets up .venv by itself. What they do stands in make.py, which also works
# without make: python make.py book
#
#   make book PYTHON=python3.12     another Python, 3.11 to 3.13
#   make notebooks ARGS="01 12"     arguments for a command
#   make grade SUBMISSIONS=folder   the folder of a class

PYTHON ?= python3
ARGS ?=

help book serve pdf epub test lab notebooks assignments cards bench clean:
	@$(PYTHON) make.py $@ $(ARGS)

grade:
	@$(PYTHON) make.py grade $(if $(SUBMISSIONS),"$(SUBMISSIONS)") $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help book serve pdf epub test lab notebooks assignments grade cards bench clean
