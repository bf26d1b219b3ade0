# Completion of overrides in bash, of keys, groups and options: `source completion.bash`. Hydra's own
# (`-sc install=bash`) knows scripts and installed programs, but not `python -m`.
_pipeline_train() {
    [[ "${COMP_WORDS[*]:1:2}" == "-m pipeline.train" ]] || return
    local choices
    choices=$(COMP_LINE="train.py ${COMP_LINE#*pipeline.train}" "${COMP_WORDS[0]}" -m pipeline.train -sc query=bash)
    mapfile -t COMPREPLY < <(compgen -W "$choices" -- "${COMP_LINE##* }")
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=/}
complete -o nospace -o default -F _pipeline_train python python3
