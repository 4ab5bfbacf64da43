# SPDX-License-Identifier: GPL-3.0-or-later
"""LoRA files of both engines: find, inspect, convert, inject, verify, report. Nothing is silent.

Without torch; a large file takes a second, for all its values are looked at:
    find.find(path) -> [Found(task, name, file)];  find.task_files(root, task) -> {name: file}
    inspection.inspect(file, {module: weight shape}) -> Inspection; `.require()` raises OmnixError
    fingerprint.fingerprint(inspection) -> equal for files of which the same is injected
    fingerprint.refuse_copy(inspection, {fingerprint: file}) raises where there is such a file
    fingerprint.refuse_twin(file, files of other tasks) raises where one is the same file
    layout.flux_modules(config) -> {module: weight shape}, the modules OmniX adapts in FLUX

In a model (torch, PEFT):
    loading.load_transformer(folder, dtype) -> the FLUX transformer to adapt, whole or refused
    inject.inject(model, {name: file}, expected) -> {name: Injected}    refuses or proves
    inject.activate(model, name | None); inject.remove(model, names)
    routing.routing(model, [name of element 0, ...])    context: element i through adapter i alone
    effect.effects(run, names, moved) -> {name: Effect(off, swapped)}    run(name | None) -> output
    effect.require(effects) raises OmnixError for an adapter without an effect of its own
    report.entry(task, injected, effect) -> entry of report.json's `adapters`

A folder of adapters may hold the network they were made for, `base.safetensors`, whose metadata
entry `adapted_modules` is a JSON list of the modules they fill; `adapters check` then goes by that.

Every refusal is an OmnixError that names the file and the tensors; the base is never written to.
"""
