# SPDX-License-Identifier: GPL-3.0-or-later
"""LoRA files of both engines: find, inspect, convert, inject, verify, report. Nothing is silent.

Without torch, in milliseconds:
    find.find(path) -> [Found(task, name, file)];  find.task_files(root, task) -> {name: file}
    inspection.inspect(file, {module: weight shape}) -> Inspection; `.require()` raises OmnixError
    layout.flux_modules(config) -> {module: weight shape}, the modules OmniX adapts in FLUX

In a model (torch, PEFT):
    inject.inject(model, {name: file}, expected) -> {name: Injected}    refuses or proves
    inject.activate(model, name | None); inject.remove(model, names)
    inject.create(model, {name: rank}, expected), inject.save(model, name, file)    for training
    routing.routing(model, [name of element 0, ...])    context: element i through adapter i alone
    effect.effects(run, names) -> {name: Effect(off, swapped)}    run(name | None) -> output tensor
    report.entry(task, injected, effect) -> entry of report.json's `adapters`

Every refusal is an OmnixError that names the file and the tensors; the base is never written to.
"""
