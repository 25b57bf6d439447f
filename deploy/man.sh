#!/usr/bin/env bash
# Writes the man pages of both programs, one for each command: deploy/man.sh PROGRAMS DIRECTORY
set -euo pipefail

programs=$1 directory=$2
mkdir -p "$directory"
for program in overlay-gw overlay-seller; do
  "$programs/$program" man >"$directory/$program.1"
  commands=$("$programs/$program" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z]\+\) .*/\1/p')
  for command in $commands; do
    [[ $command == help ]] && continue
    "$programs/$program" man "$command" >"$directory/$program-$command.1"
  done
done
ls "$directory"
