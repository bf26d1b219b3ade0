# Completion of overrides in bash, of keys, groups and options: `source completion.bash`. Hydra's own
# (`-sc install=bash`) knows scripts and installed programs, but not `python -m`.
_pipeline_train() {
    local line=${COMP_LINE:0:COMP_POINT} plain='^[-+~A-Za-z0-9_./@]+=[A-Za-z0-9_./+-]*$'
    [[ $line == *"-m pipeline.train "* ]] || return
    local current=${line##* } asked="" word prefix=""
    local -a words choices
    [[ $current =~ ^[-+~A-Za-z0-9_./@=]*$ ]] || return
    read -r -a words <<< "${line#*-m pipeline.train }"
    for word in "${words[@]}"; do # one that is quoted, or a choice of a sweep, says nothing about what there is
        [[ $word =~ $plain && $word != "$current" ]] && asked+="$word "
    done
    read -r -d '' -a choices < <(COMP_LINE="train.py $asked$current" "${COMP_WORDS[0]}" -m pipeline.train \
        -sc query=bash 2>/dev/null)
    [[ $COMP_WORDBREAKS == *=* && $current == *=* ]] && prefix=${current%=*}= # bash asks for what follows it alone
    COMPREPLY=()
    for word in "${choices[@]}"; do
        [[ $word == "$current"* ]] && COMPREPLY+=("${word#"$prefix"}")
    done
}
complete -o nospace -o default -F _pipeline_train python python3
