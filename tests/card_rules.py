"""What the Hub demands of a model card's metadata, as far as cards of this package can go wrong."""

import re

import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results
from huggingface_hub.utils import validate_repo_id

# of https://huggingface.co/docs/hub/repositories-licenses
LICENSES = set(
    """apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0
    cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
    cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl
    gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr
    mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
    deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma
    unknown other""".split()
)
TASKS = {
    *("image-classification", "text-classification", "audio-classification", "video-classification"),
    *("zero-shot-image-classification", "tabular-classification", "image-feature-extraction", "feature-extraction"),
}


def problems(content):
    """Errors and warnings about the front matter of README.md."""
    block = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    if block is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(block[1])
    except yaml.YAMLError as error:
        return [f"metadata is not valid YAML: {error}"], []
    if not isinstance(data, dict):
        return ["metadata must be an object"], []
    errors, warnings = [], []
    if "license" in data and data["license"] not in LICENSES:
        errors.append('"license" must be one of ' + ", ".join(sorted(LICENSES)))
    for key, kind in (("base_model", "model"), ("datasets", "dataset")):
        for i, name in enumerate(_listed(data.get(key))):
            if not _is_repo_id(name):
                where = key if isinstance(data[key], str) else f"{key}[{i}]"
                errors.append(
                    f'"{where}" with value "{name}" is not valid. Use a {kind} id from https://hf.co/{kind}s.'
                )
    for language in _listed(data.get("language")):
        if not re.fullmatch(r"[a-z]{2,3}|code|multilingual", str(language)):
            errors.append(f'"language" with value "{language}" is not valid. It must be an ISO 639 code.')
    for key in ("tags", "datasets"):
        if key in data and not (isinstance(data[key], list) and all(isinstance(item, str) for item in data[key])):
            errors.append(f'"{key}" must be an array of strings')
    for key in ("pipeline_tag", "library_name"):
        if not isinstance(data.get(key, ""), str):
            errors.append(f'"{key}" must be a string')
    if "pipeline_tag" in data and data["pipeline_tag"] not in TASKS:
        warnings.append(f'The pipeline tag "{data["pipeline_tag"]}" is not in the official list')
    if "model-index" in data:
        errors += _of_model_index(data["model-index"])
    return errors, warnings


def _of_model_index(index):
    try:
        name, results = model_index_to_eval_results(index)
    except (KeyError, TypeError, ValueError) as error:
        return [f'"model-index" is not valid: {error!r} is missing or wrong']
    errors = [] if isinstance(name, str) and name else ['"model-index[0].name" is not allowed to be empty']
    for i, result in enumerate(results):
        where = f"model-index[0].results[{i}]"
        if not isinstance(result.metric_value, int | float) or result.metric_value != result.metric_value:
            errors.append(f'"{where}.metrics[0].value" must be a number')
        texts = {"task.type": result.task_type, "dataset.type": result.dataset_type, "metric": result.metric_type}
        errors += [f'"{where}.{part}" is required' for part, text in texts.items() if not isinstance(text, str)]
    return errors


def _listed(value):
    return [] if value is None else value if isinstance(value, list) else [value]


def _is_repo_id(name):
    try:
        validate_repo_id(name)
    except ValueError:
        return False
    return isinstance(name, str)
