#!/bin/sh
# Runs as the only job of a booted Debian with the package at /root/dunlin.deb: what an
# administrator and fate do to the service. Prints "=== STEP" and then KEY=VALUE lines, which
# TestServiceInABootedDebian compares.
set -u
exec >/root/out 2>&1
cd /root || exit 1

step() { echo "=== $*"; }

end() {
	step end
	journalctl -q -o cat -u dunlin >/root/journal
	systemctl poweroff -f
	exit
}

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
	deadline=$(($(date +%s) + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		if [ "$(date +%s)" -ge "$deadline" ]; then
			echo "waited=in vain for $*"
			return 1
		fi
		sleep 0.1
	done
}

# shellcheck disable=SC2317 # called by wait_for
# restarted N: whether the service is active after N restarts by systemd.
restarted() {
	[ "$(systemctl show -P NRestarts dunlin)" = "$1" ] && systemctl is-active --quiet dunlin
}

state() { systemctl show dunlin -p ActiveState -p SubState -p Result -p NRestarts; }
# The process of the service. Without one there is nothing left to try (and 0 would be ourselves).
pid() { systemctl show -P MainPID dunlin; }
running() { [ "$(pid)" != 0 ] || end; }
# The answer of the broker to a client: a retained message that was acknowledged at the first step.
kept() { echo "kept=$(timeout 60 dunlin sub -h 127.0.0.1 -t kept -q 1 -C 1)"; }

step install
dpkg -i dunlin.deb >dpkg.log 2>&1 || cat dpkg.log
state
echo "enabled=$(systemctl is-enabled dunlin)"
echo "type=$(systemctl show -P Type dunlin)"
echo "status=$(systemctl show -P StatusText dunlin)"
echo "user=$(stat -c %U "/proc/$(pid)")"
echo "data=$(stat -c '%U:%G %a' /var/lib/dunlin)"
echo "run=$(stat -c '%U:%G %a' /run/dunlin)"
grep -E '^(CapEff|NoNewPrivs|Seccomp):' "/proc/$(pid)/status" | tr -d '\t ' | tr : =
timeout 60 dunlin pub -h 127.0.0.1 -t kept -q 1 -r -m here
echo "published=$?"
kept

step hang
running
kill -STOP "$(pid)"
began=$(date +%s)
wait_for 60 restarted 1
took=$(($(date +%s) - began))
# WatchdogSec and RestartSec, and what the machine needs.
[ $took -ge 5 ] && [ $took -le 40 ] && took="in time"
echo "took=$took"
state
journalctl -q -o cat -u dunlin | grep -q 'Watchdog timeout' && echo reason=watchdog
kept

step kill
running
kill -9 "$(pid)"
wait_for 60 restarted 2
state
kept

step stop
systemctl stop dunlin
state
echo "status=$(systemctl show -P ExecMainStatus dunlin)"
systemctl start dunlin
kept

step passwords
echo secret | dunlin passwd /etc/dunlin/passwords alice >passwd.log 2>&1 || cat passwd.log
echo "passwords=$(stat -c '%U:%G %a' /etc/dunlin/passwords)"
mkdir -p /etc/systemd/system/dunlin.service.d
cat >/etc/systemd/system/dunlin.service.d/passwords.conf <<EOF
[Service]
ExecStart=
ExecStart=/usr/bin/dunlin serve --config /etc/dunlin/dunlin.yaml --set auth.passwords=/etc/dunlin/passwords
EOF
systemctl daemon-reload
systemctl restart dunlin
echo "nobody=$(timeout 60 dunlin sub -h 127.0.0.1 -t kept -q 1 -C 1 2>/dev/null)"
echo "alice=$(timeout 60 dunlin sub -h 127.0.0.1 -u alice -P secret -t kept -q 1 -C 1)"
rm -r /etc/systemd/system/dunlin.service.d
systemctl daemon-reload
systemctl restart dunlin

step upgrade
echo '# mine' >>/etc/dunlin/dunlin.yaml
before=$(pid)
dpkg -i dunlin.deb >dpkg.log 2>&1 || cat dpkg.log
state
[ "$(pid)" != "$before" ] && echo process=new
tail -n 1 /etc/dunlin/dunlin.yaml
kept

step remove
dpkg -r dunlin >dpkg.log 2>&1 || cat dpkg.log
echo "active=$(systemctl is-active dunlin)"
[ -d /var/lib/dunlin ] && echo data=kept
[ -e /etc/dunlin/dunlin.yaml ] && echo configuration=kept
[ -e /usr/bin/dunlin ] || echo program=gone

step again
dpkg -i dunlin.deb >dpkg.log 2>&1 || cat dpkg.log
systemctl show dunlin -p ActiveState
kept

step purge
dpkg -P dunlin >dpkg.log 2>&1 || cat dpkg.log
[ -e /var/lib/dunlin ] || echo data=gone
[ -e /etc/dunlin ] || echo configuration=gone
find /etc/systemd /var/lib/systemd/deb-systemd-helper-enabled /lib/systemd/system -name '*dunlin*'
getent passwd dunlin >/dev/null && echo user=kept
systemctl --failed --no-legend --plain

end
