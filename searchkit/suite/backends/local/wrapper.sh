#!/bin/sh
# Runs one attempt of a job, and is the only writer of its status file (file descriptor 9, whose flock says that this
# wrapper lives). Shell builtins only, so that a job costs one process more and no interpreter start.
# It is started before its turn and waits for one line, the time, on file descriptor 8: a free slot then costs no program
# start. Before that line nothing has happened, and where it never comes nothing will.
# The scheduler may die at any moment; this goes on, and the next scheduler reads what it wrote.
#
#   wrapper.sh BACKEND HANDLE HOST BOOT_ID NEXT_ATTEMPT WORK_FOLDER CALLBACK PRE AFTER SHELL PYTHON HELPER COMMAND...
#
# BACKEND and HANDLE are who answers for the attempt, and what it is called there (`-`: nothing but its process number).
# COMMAND is the words of a program, those of a shell for what needs one; PRE and AFTER are empty where there is no such
# callback; SHELL is the words of the shell that runs these, one a line.

start_ticks() { shift 21; ticks=$1; }

end_trial() {
    [ -e "$1" ] || return # it never began
    while read -r word rest; do
        [ "$word" = exit ] && return
    done <"$1"
    printf 'ended %s%s\nexit %s\n' "$2" "$stopped" "$2" >>"$1"
}

main() {
    # The command below gets the default actions back; this shell must live to write `exit`. Who stops a command that
    # catches SIGTERM, and may exit with any code, sends it here first: so this shell knows which came first.
    stopped=
    trap 'stopped=" stopped"' TERM
    trap : INT HUP
    read -r stat </proc/self/stat
    start_ticks $stat
    read -r now <&8 || exit 0
    exec 8<&-
    printf 'start %s %s %s %s %s %s %s\n' "$1" "$3" "$4" "$$" "$ticks" "$2" "$now" >&9 || exit 74
    shift 2
    # The attempt's number is the fencing token: where a later attempt exists, this one was given up for lost.
    [ -e "$3" ] && { echo "exit 125" >&9; exit 125; }
    work=$4 callback=$5 pre=$6 after=$7 shell=$8 python=$9
    shift 9
    helper=$1
    shift
    cd "$work" || { echo "exit 126" >&9; exit 126; }
    if [ -n "$pre" ]; then
        "$python" -I -S "$helper" "$callback/pre.json" "$pre" "$shell" 9>&-
        code=$?
        [ $code -eq 0 ] || { echo "exit $code pre" >&9; exit $code; }
    fi
    ( exec "$@" ) 9>&- # exec finds programs alone, never a builtin or a function of this shell
    code=$?
    printf 'ended %s%s\n' "$code" "$stopped" >&9 || exit 74
    # Here stands which status file wants the exit code of a worker that ended, or was ended, within a trial.
    if [ -n "$SEARCHKIT_WORKER" ] && [ -e "$SEARCHKIT_WORKER/open.txt" ]; then
        IFS= read -r trial <"$SEARCHKIT_WORKER/open.txt"
        end_trial "$trial" "$code"
    fi
    if [ -n "$after" ]; then
        "$python" -I -S "$helper" "$callback/after.json" "$after" "$shell" 9>&- || echo "after $?" >&9
    fi
    echo "exit $code" >&9 || exit 74 # a full disk: no exit line, so the attempt counts as lost
    exit $code
}

main "$@"
exit 127
