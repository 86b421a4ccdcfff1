#!/bin/sh
# usage: procd.sh INIT DATA
#
# Sources the init script and calls what OpenWrt's rc.common would call. Everything that procd, UCI
# and root would do is printed.
set -eu

config_load() { echo "config_load $*"; }
config_foreach() { "$1" main "$3"; } # one section, named main
uci_load_validate() {
	echo "uci_load_validate $*"
	# shellcheck disable=SC2034 # as the real one: sets a variable for each option, and calls back
	enabled=1 config=/etc/dunlin/dunlin.yaml data=$DATA
	"$4" "$3" 0
}
procd_open_instance() { echo "procd_open_instance $*"; }
procd_set_param() { echo "procd_set_param $*"; }
procd_close_instance() { echo procd_close_instance; }
procd_add_reload_trigger() { echo "procd_add_reload_trigger $*"; }
procd_add_validation() { echo "procd_add_validation $*"; }
chown() { echo "chown $*"; }
chmod() { echo "chmod $*"; }
mkdir() { echo "mkdir $*"; }
touch() { echo "touch $*"; }

DATA=$2
# shellcheck source=/dev/null
. "$1"
start_service
service_triggers
