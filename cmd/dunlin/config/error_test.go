package config

import (
	"errors"
	"strings"
	"testing"
)

// TestFaultsAreNamedWithTheirPlace compares messages as they are, since they are the interface.
func TestFaultsAreNamedWithTheirPlace(t *testing.T) {
	const dev = "uplinks:\n  - name: a\n    endpoints: [mqtt://h]\n    client_id: c\n"
	for _, tt := range []struct {
		name string
		text string
		want []string
	}{
		// Structure.
		{"no YAML", "limits: [", []string{`f:1:1: this is not YAML: did not find expected node content`}},
		{"tab", "limits:\n\tmax_packet: 1KiB\n", []string{`f:2:2: this is not YAML: found character that cannot start any token; indent with spaces, tabs are not allowed`}},
		{"list at the top", "- a\n", []string{`f:1:1: got a list; allowed: a group of "key: value" lines`}},
		{"text at the top", "hello\n", []string{`f:1:1: got "hello"; allowed: a group of "key: value" lines`}},
		{"two documents", "log:\n---\nlog:\n", []string{`f:2:1: a second document (---) begins; allowed: one`}},
		{"slip in a key", "listner: []\n", []string{`f:1:1: unknown key "listner"; did you mean "listeners"?`}},
		{"unknown key", "log:\n  colour: red\n", []string{`f:2:3: log: unknown key "colour"; allowed: level, format`}},
		{"hidden key is not named", "dashboard: true\n", []string{`f:1:1: unknown key "dashboard"; allowed: data, listeners, limits, sessions, retained, delayed, rewrite, auto_subscribe, sys, store, auth, access, uplinks, io_threads, log, admin`}},
		{"repeated key", "log:\n  level: info\n  level: warn\n", []string{`f:3:3: log: the key "level" is repeated; it stands in line 2 already`}},
		{"repeated section", "log:\nlimits:\nlog:\n", []string{`f:3:1: the key "log" is repeated; it stands in line 1 already`}},
		{"key that is a list", "? [a]\n: b\n", []string{`f:1:3: a key cannot be a list; allowed: text`}},
		{"alias", "data: &x a\nauth: {passwords: *x}\n", []string{`f:2:19: auth.passwords: an alias (*x) is not allowed; write the value out`}},
		{"section of the wrong kind", "limits: 7\n", []string{`f:1:9: limits: got "7"; allowed: a group of "key: value" lines`}},
		{"group where a list is wanted", "listeners: {address: \":1\"}\n", []string{`f:1:12: listeners: got a group of settings; allowed: a list`}},
		{"list where a value is wanted", "data: [a, b]\n", []string{`f:1:7: data: got a list; allowed: a path`}},

		// Values.
		{"number that is text", "limits: {receive_maximum: many}\n", []string{`f:1:27: limits.receive_maximum: "many" is not a whole number; allowed: 1 to 65535`}},
		{"number out of range", "limits: {receive_maximum: 70000}\n", []string{`f:1:27: limits.receive_maximum: 70000 is out of range; allowed: 1 to 65535`}},
		{"number without an upper bound", "retained: {max_messages: -1}\n", []string{`f:1:26: retained.max_messages: -1 is out of range; allowed: 1 or more`}},
		{"bounds of 0", "sessions: {max_expiry: 0}\nretained: {max_messages: 0, max_bytes: 0}\n", []string{
			`f:1:24: sessions.max_expiry: 0 is out of range; allowed: 1s to never`,
			`f:2:26: retained.max_messages: 0 is out of range; allowed: 1 or more`,
			`f:2:40: retained.max_bytes: 0 is out of range; allowed: 1KiB to 1GiB`,
		}},
		{"interval below a second", "sys: {interval: 500ms}\n", []string{`f:1:17: sys.interval: 500ms is out of range; allowed: 1s to 1h, or 0 for none`}},
		{"duration without a unit", "limits:\n  connect_timeout: 10\n", []string{`f:2:20: limits.connect_timeout: "10" is not a duration, the unit is missing; allowed: 1s to 1m, written like 500ms, 10s, 5m, 2h or 7d`}},
		{"duration out of range", "limits:\n  connect_timeout: 2m\n", []string{`f:2:20: limits.connect_timeout: 2m is out of range; allowed: 1s to 1m`}},
		{"never where it is not allowed", "limits:\n  connect_timeout: never\n", []string{`f:2:20: limits.connect_timeout: "never" is not a duration, it does not start with a whole number; allowed: 1s to 1m, written like 500ms, 10s, 5m, 2h or 7d`}},
		{"size with an unknown unit", "limits:\n  max_packet: 12 bananas\n", []string{`f:2:15: limits.max_packet: "12 bananas" is not a size, the unit is unknown; allowed: 1KiB to 256MiB, written like 512B, 256KiB, 64MiB or 1GiB`}},
		{"size out of range", "limits:\n  max_packet: 1GiB\n", []string{`f:2:15: limits.max_packet: 1GiB is out of range; allowed: 1KiB to 256MiB`}},
		{"maximum QoS of 3", "limits:\n  max_qos: 3\n", []string{`f:2:12: limits.max_qos: 3 is out of range; allowed: 0 to 2`}},
		{"keep alive of nothing", "limits:\n  max_keep_alive: 0\n", []string{`f:2:19: limits.max_keep_alive: 0 is out of range; allowed: 1s to never`}},
		{"resend interval of a day", "limits:\n  resend_after: 1d\n", []string{`f:2:17: limits.resend_after: 1d is out of range; allowed: 1s to 1h, or never`}},
		{"policy of a queue that is one of spools", "sessions:\n  when_full: reject\n", []string{`f:2:14: sessions.when_full: "reject" is not known; allowed: drop_oldest, drop_newest`}},
		{"response information with a wildcard", "sessions:\n  response_information: a/#\n", []string{`f:2:25: sessions.response_information: "a/#" is not a topic, wildcard in a topic name; allowed: levels with / between them, without + and #`}},
		{"response information where nobody publishes", "sessions:\n  response_information: $SYS/a\n", []string{`f:2:25: sessions.response_information: "$SYS/a": clients cannot respond there; allowed: a topic that does not begin with $SYS, $share, $queue or $delayed`}},
		{"rewrite without to", "rewrite:\n  - {from: a}\n", []string{`f:2:5: rewrite.0: to is missing; write it like {from: "old/+/#", to: "new/$1/#"}`}},
		{"rewrite that captures nothing", "rewrite:\n  - {from: a/+, to: b/$2}\n", []string{`f:2:21: rewrite.0.to: to "b/$2" has $2, but from "a/+" has 1 "+"`}},
		{"rewrite that captures a part", "rewrite:\n  - {from: a/+, to: b/x$1}\n", []string{`f:2:21: rewrite.0.to: to "b/x$1" has "x$1": $1, $2 … stand for whole levels, from $1 on, and have nothing beside them`}},
		{"rewrite with a wildcard", "rewrite:\n  - {from: a/#, to: b/+}\n", []string{`f:2:21: rewrite.0.to: to "b/+" has a "+": write $1 for what the first "+" of from matched, $2 for the second`}},
		{"rewrite of what is no filter", "rewrite:\n  - {from: a/#/b, to: b}\n", []string{`f:2:12: rewrite.0.from: "a/#/b" is not a topic filter, # is not the last level on its own; allowed: levels with / between them, + for any one level, # at the end for all below`}},
		{"rewrite of a shared subscription", "rewrite:\n  - {from: $share/g/a, to: b}\n", []string{`f:2:12: rewrite.0.from: from "$share/g/a": topics that the broker understands by itself ($SYS, $share, $queue, $delayed) are not rewritten; rules see the topic behind $delayed/SECONDS and behind a share name`}},
		{"rewrite for something else", "rewrite:\n  - {from: a, to: b, for: all}\n", []string{`f:2:27: rewrite.0.for: "all" is not known; allowed: publish, subscribe, both`}},
		{"automatic subscription without a topic", "auto_subscribe:\n  - {qos: 1}\n", []string{`f:2:5: auto_subscribe.0: topic is missing; write it like {topic: "commands/%c/#"}`}},
		{"automatic subscription to no filter", "auto_subscribe:\n  - topic: a/#/b\n", []string{`f:2:12: auto_subscribe.0.topic: "a/#/b" is not a topic filter, # is not the last level on its own; allowed: levels with / between them, + for any one level, # at the end for all below`}},
		{"automatic subscription with another placeholder", "auto_subscribe:\n  - topic: a/%d\n", []string{`f:2:12: auto_subscribe.0.topic: "a/%d": a percent sign must be %c (client identifier), %u (user name) or %% (itself)`}},
		{"automatic subscription twice", "auto_subscribe:\n  - topic: a/#\n  - {topic: a/#, qos: 2}\n", []string{`f:3:13: auto_subscribe.1.topic: "a/#" stands in auto_subscribe.0 already`}},
		{"automatic shared subscription", "auto_subscribe:\n  - topic: $share/g/a\n", []string{`f:2:12: auto_subscribe.0.topic: "$share/g/a": this is for plain topics: leave out $share and the share name "g"`}},
		{"automatic subscription to a queue", "auto_subscribe:\n  - topic: $queue/a\n", []string{`f:2:12: auto_subscribe.0.topic: "$queue/a": this is for plain topics: leave out $share and the share name "$queue"`}},
		{"automatic subscription with QoS 3", "auto_subscribe:\n  - {topic: a, qos: 3}\n", []string{`f:2:21: auto_subscribe.0.qos: 3 is out of range; allowed: 0 to 2`}},
		{"automatic subscription with an unknown option", "auto_subscribe:\n  - {topic: a, nolocal: true}\n", []string{`f:2:16: auto_subscribe.0: unknown key "nolocal"; did you mean "no_local"?`}},
		{"delayed for ever", "delayed:\n  max_delay: never\n", []string{`f:2:14: delayed.max_delay: "never" is not a duration, it does not start with a whole number; allowed: 1s to 3650d, written like 500ms, 10s, 5m, 2h or 7d`}},
		{"delayed without bytes", "delayed:\n  max_bytes: 0\n", []string{`f:2:14: delayed.max_bytes: 0 is out of range; allowed: 1KiB to 1GiB`}},
		{"yes is not true", "listeners: [{open: yes}]\n", []string{`f:1:20: listeners.0.open: "yes" is neither true nor false; allowed: true, false`}},
		{"unknown word", "log: {level: loud}\n", []string{`f:1:14: log.level: "loud" is not known; allowed: debug, info, warn, error`}},
		{"empty data", "data: \"\"\n", []string{`f:1:7: data: is empty; allowed: the path of a folder`}},

		// Sections that contradict themselves.
		{"output below a packet", "limits:\n  max_packet: 4MiB\n", []string{`f:2:15: limits.max_packet: max_output (1MiB) is below max_packet (4MiB), so that the largest message could not be delivered; allowed: max_output from 4MiB`}},
		{"rules that allow nothing", "access:\n  anonymous: {publish: []}\n", []string{`f:2:3: access: no topic is allowed to anybody; allowed: one filter or more, or no access section at all, which allows everything`}},
		{"filter in the rules", "access:\n  everyone:\n    publish: [\"a/#/b\"]\n", []string{`f:3:15: access.everyone.publish.0: "a/#/b" is not a topic filter, # is not the last level on its own; allowed: levels with / between them, + for any one level, # at the end for all below`}},
		{"user with a colon", "access: {users: {\"a:b\": {publish: [x]}}}\n", []string{`f:1:18: access.users: "a:b" is not a user name; allowed: text without a colon`}},
		{"users as a list", "access: {users: [a]}\n", []string{`f:1:17: access.users: got a list; allowed: user names with their rules, "name: {publish: [], subscribe: []}"`}},

		// Listeners.
		{"no listener", "listeners: []\n", []string{`f:1:12: listeners: the list is empty, nobody could connect; allowed: one address or more`}},
		{"open to the network by mistake", "listeners:\n  - address: 0.0.0.0:1883\n", []string{`f:2:14: listeners.0.address: 0.0.0.0:1883 can be reached from the network, and clients need no password; allowed: with auth.passwords set, or with open: true if everybody may come in`}},
		{"no port", "listeners: [{address: 127.0.0.1}]\n", []string{`f:1:23: listeners.0.address: "127.0.0.1" is not an address with a port; allowed: 127.0.0.1:1883, [::1]:1883, :1883 for all addresses, unix:/path or systemd:NAME`}},
		{"IPv6 without brackets", "listeners: [{address: \"::1\"}]\n", []string{`f:1:23: listeners.0.address: "::1" is not an address with a port; allowed: 127.0.0.1:1883, [::1]:1883, :1883 for all addresses, unix:/path or systemd:NAME`}},
		{"port out of range", "listeners: [{address: \"127.0.0.1:99999\"}]\n", []string{`f:1:23: listeners.0.address: "127.0.0.1:99999" has no port number; allowed: 1 to 65535, 0 for any free one`}},
		{"host name", "listeners: [{address: \"gw.local:1883\"}]\n", []string{`f:1:23: listeners.0.address: "gw.local" is not an IP address; allowed: 127.0.0.1:1883, [::1]:1883, :1883 for all addresses, unix:/path or systemd:NAME`}},
		{"socket path too long", "listeners: [{address: \"unix:/" + strings.Repeat("x", 107) + "\"}]\n", []string{`f:1:23: listeners.0.address: the path of the socket has 108 bytes; allowed: at most 107`}},
		{"address twice", "listeners:\n  - address: 127.0.0.1:1\n  - address: 127.0.0.1:01\n", []string{`f:3:14: listeners.1.address: 127.0.0.1:1 stands in listeners.0 already`}},

		{"address that is a part of another", "listeners:\n  - {address: \":1\", open: true}\n  - address: 127.0.0.1:1\n", []string{`f:3:14: listeners.1.address: 127.0.0.1:1 and :1 (listeners.0) share a port and an address, only one of them could be opened; allowed: another port, or addresses that have nothing in common`}},
		{"mode of a TCP listener", "listeners: [{address: \"127.0.0.1:1\", mode: 0660}]\n", []string{`f:1:44: listeners.0.mode: 127.0.0.1:1 is no unix socket; allowed: with unix:/path`}},
		{"freebind of a unix socket", "listeners: [{address: \"unix:/s\", freebind: false}]\n", []string{`f:1:44: listeners.0.freebind: unix:/s is no IP address; allowed: with host:port`}},
		{"mode that locks the broker out", "listeners: [{address: \"unix:/s\", mode: 0060}]\n", []string{`f:1:40: listeners.0.mode: "0060" is not a mode of a socket that the broker can use; allowed: three octal digits as of chmod, 0600 to 0777`}},
		{"mode with a bit too many", "listeners: [{address: \"unix:/s\", mode: 4660}]\n", []string{`f:1:40: listeners.0.mode: "4660" is not a mode of a socket that the broker can use; allowed: three octal digits as of chmod, 0600 to 0777`}},
		{"socket of systemd without a name", "listeners: [{address: \"systemd:\", open: true}]\n", []string{`f:1:23: listeners.0.address: "" is not a name that systemd gives to a socket; allowed: FileDescriptorName= of the socket unit, or the name of the unit`}},
		{"socket of systemd that nobody guards", "listeners: [{address: \"systemd:mqtt\"}]\n", []string{`f:1:23: listeners.0.address: systemd:mqtt can be reached from the network, and clients need no password; allowed: with auth.passwords set, or with open: true if everybody may come in`}},
		{"freebind of a socket of systemd", "listeners: [{address: \"systemd:mqtt\", open: true, freebind: true}]\n", []string{`f:1:61: listeners.0.freebind: systemd:mqtt is no IP address; allowed: with host:port`}},
		{"version that is not spoken", "listeners: [{address: \"unix:/s\", versions: [5.0, 4]}]\n", []string{`f:1:50: listeners.0.versions.1: "4" is not known; allowed: 3.1, 3.1.1, 5.0`}},
		{"no version at all", "listeners: [{address: \"unix:/s\", versions: []}]\n", []string{`f:1:44: listeners.0.versions: the list is empty, nobody could connect; allowed: one version or more`}},
		{"packets that cannot be delivered", "listeners: [{address: \"unix:/s\", max_packet: 2MiB}]\n", []string{`f:1:46: listeners.0.max_packet: is above limits.max_output (1MiB), so that the largest message could not be delivered; allowed: up to that`}},
		{"more in flight than sessions have", "listeners: [{address: \"unix:/s\", max_in_flight: 9}]\nlimits: {max_in_flight: 8}\n", []string{`f:1:49: listeners.0.max_in_flight: 9 is above limits.max_in_flight (8), which holds for sessions, wherever they connect; allowed: up to that`}},

		{"redirect to nowhere", "listeners: [{address: \"unix:/s\", redirect: {permanent: true}}]\n", []string{`f:1:44: listeners.0.redirect: to is missing; write it like to: broker.example.com:1883`}},
		{"redirect to nothing", "listeners: [{address: \"unix:/s\", redirect: {to: \" \"}}]\n", []string{`f:1:49: listeners.0.redirect.to: is empty; allowed: broker.example.com, broker.example.com:1883, [2001:db8::1]:1883, several with a space between`}},
		{"redirect to a URL", "listeners: [{address: \"unix:/s\", redirect: {to: a mqtt://b}}]\n", []string{`f:1:49: listeners.0.redirect.to: "mqtt://b" is not a server; allowed: broker.example.com, broker.example.com:1883, [2001:db8::1]:1883, several with a space between`}},
		{"redirect to servers with a comma between", "listeners: [{address: \"unix:/s\", redirect: {to: \"a,b\"}}]\n", []string{`f:1:49: listeners.0.redirect.to: "a,b" is not a server; allowed: broker.example.com, broker.example.com:1883, [2001:db8::1]:1883, several with a space between`}},
		{"redirect to more than there is room for", "listeners: [{address: \"unix:/s\", redirect: {to: " + strings.Repeat("b", 1025) + "}}]\n", []string{`f:1:49: listeners.0.redirect.to: the servers have 1025 bytes; allowed: at most 1024`}},

		// Uplinks.
		{"uplink that says nothing", "uplinks:\n  -\n", []string{
			`f:2:4: uplinks.0: name is missing; write it like name: cloud`,
			`f:2:4: uplinks.0: endpoints is missing; write it like endpoints: [mqtts://broker.example.com:8883]`,
			`f:2:4: uplinks.0: client_id is missing; write it like client_id: gateway-17`,
			`f:2:4: uplinks.0: there are neither rules nor down, nothing would pass; write one like rules: [{from: "#"}]`,
		}},
		{"name of an uplink", "uplinks: [{name: My Cloud, endpoints: [mqtt://h], client_id: c, down: [{from: x}]}]\n", []string{`f:1:18: uplinks.0.name: "My Cloud" is not the name of an uplink; allowed: 1 to 32 characters of a to z, 0 to 9 and -`}},
		{"name twice", dev + "    rules: [{from: x}]\n  - name: a\n    endpoints: [mqtt://h]\n    client_id: c\n    rules: [{from: x}]\n", []string{`f:6:11: uplinks.1.name: the name "a" belongs to uplinks.0 already`}},
		{"endpoint that is the broker itself", "uplinks: [{name: a, endpoints: [mqtt://localhost], client_id: c, rules: [{from: \"#\"}]}]\n", []string{`f:1:32: uplinks.0.endpoints: mqtt://localhost:1883 is this broker itself (listeners.0), its messages would go round for ever; allowed: another broker`}},
		{"rule for what the broker tells of itself", dev + "    rules: [{from: $SYS/#}]\n", []string{`f:5:20: uplinks.0.rules.0.from: "$SYS/#": nothing below $SYS and $delayed goes up; allowed: what clients subscribe to; a delayed message goes up under its own topic when it is due`}},
		{"rule for what is delayed", dev + "    rules: [{from: $delayed/+/a}]\n", []string{`f:5:20: uplinks.0.rules.0.from: "$delayed/+/a": nothing below $SYS and $delayed goes up; allowed: what clients subscribe to; a delayed message goes up under its own topic when it is due`}},
		{"rule that captures", dev + "    rules: [{from: a/+, to: b/$1}]\n", []string{`f:5:29: uplinks.0.rules.0.to: "b/$1" has a level such as $1, which only rewrite knows; allowed: levels, and # at the end for what the # of from matched`}},
		{"rule down to what only the broker publishes", dev + "    down: [{from: a/#, to: $SYS/#}]\n", []string{`f:5:28: uplinks.0.down.0.to: "$SYS/#": nobody but this broker publishes below $SYS; allowed: another topic`}},
		{"two endpoints", "uplinks: [{name: a, endpoints: [mqtt://h, mqtt://i], client_id: c, down: [{from: x}]}]\n", []string{`f:1:32: uplinks.0.endpoints: 2 endpoints are given, and this version has no failover; allowed: one endpoint`}},
		{"endpoint of another protocol", "uplinks: [{name: a, endpoints: [\"wss://h/mqtt\"], client_id: c, down: [{from: x}]}]\n", []string{`f:1:33: uplinks.0.endpoints.0: "wss" is not a protocol that an uplink speaks; allowed: mqtt://host:port or mqtts://host:port`}},
		{"endpoint that is only a host", "uplinks: [{name: a, endpoints: [\"h:1883\"], client_id: c, down: [{from: x}]}]\n", []string{`f:1:33: uplinks.0.endpoints.0: "h:1883" is not an endpoint; allowed: mqtt://host:port or mqtts://host:port`}},
		{"password in the endpoint", "uplinks: [{name: a, endpoints: [\"mqtt://u:secret@h\"], client_id: c, down: [{from: x}]}]\n", []string{`f:1:33: uplinks.0.endpoints.0: a user name or password does not belong here; allowed: mqtt://host:port or mqtts://host:port, with username and password_file beside it`}},
		{"empty client_id", "uplinks: [{name: a, endpoints: [mqtt://h], client_id: \"\", down: [{from: x}]}]\n", []string{`f:1:55: uplinks.0.client_id: "" is not a client identifier; allowed: 1 to 65535 bytes of text`}},
		{"tls without mqtts", dev + "    tls: {server_name: x}\n    rules: [{from: x}]\n", []string{`f:5:10: uplinks.0.tls: no endpoint uses it; allowed: with an endpoint that starts with mqtts://`}},
		{"cert without key", "uplinks: [{name: a, endpoints: [mqtts://h], client_id: c, tls: {cert: x}, down: [{from: x}]}]\n", []string{`f:1:64: uplinks.0.tls: cert and key belong together; allowed: both, or neither`}},
		{"password without a user", dev + "    password_file: x\n    rules: [{from: x}]\n", []string{`f:5:20: uplinks.0.password_file: is given without username; allowed: both, or neither`}},
		{"rule without from", dev + "    rules: [{to: x}]\n", []string{`f:5:13: uplinks.0.rules.0: from is missing; write it like {from: "plant/#"}`}},
		{"rule with a bad qos", dev + "    rules: [{from: x, qos: 3}]\n", []string{`f:5:28: uplinks.0.rules.0.qos: 3 is out of range; allowed: 0 to 2`}},
		{"rule with a bad filter", dev + "    down: [{from: a+}]\n", []string{`f:5:19: uplinks.0.down.0.from: "a+" is not a topic filter, + is not a level on its own; allowed: levels with / between them, + for any one level, # at the end for all below`}},
		{"rule that remaps nothing", dev + "    rules: [{from: a, to: \"b/#\"}]\n", []string{`f:5:27: uplinks.0.rules.0.to: to "b/#" ends in "#", but from "a" does not: end both in "#", or neither`}},
		{"shared rule", dev + "    rules: [{from: $share/g/a}]\n", []string{`f:5:20: uplinks.0.rules.0.from: "$share/g/a" is a shared subscription; allowed: a plain topic filter`}},
		{"variable in a rule", dev + "    rules: [{from: a/#, to: \"${site}/#\"}]\n", []string{`f:5:29: uplinks.0.rules.0.to: "${site}/#" has a variable, ${…}, and this version knows none; write the value out`}},
		{"variable in client_id", "uplinks: [{name: a, endpoints: [mqtt://h], client_id: \"${serial}\", down: [{from: x}]}]\n", []string{`f:1:55: uplinks.0.client_id: "${serial}" has a variable, ${…}, and this version knows none; write the value out`}},
		{"back-off upside down", dev + "    backoff: {min: 2m}\n    rules: [{from: x}]\n", []string{`f:5:20: uplinks.0.backoff.min: max (1m) is below min (2m); allowed: max from 2m`}},
		{"lanes belong to another version", dev + "    lanes: []\n    rules: [{from: x}]\n", []string{`f:5:5: uplinks.0: unknown key "lanes"; allowed: name, endpoints, client_id, username, password_file, tls, keep_alive, session_expiry, spool, rules, down, limits, backoff`}},

		{"all at once, in order", "log: {level: x}\nlimits:\n  max_packet: 1\ndata: [1]\n", []string{
			`f:1:14: log.level: "x" is not known; allowed: debug, info, warn, error`,
			`f:3:15: limits.max_packet: "1" is not a size, the unit is missing; allowed: 1KiB to 256MiB, written like 512B, 256KiB, 64MiB or 1GiB`,
			`f:4:7: data: got a list; allowed: a path`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("f", []byte(tt.text), Overrides{})
			compare(t, err, tt.want)
		})
	}
}

func compare(t *testing.T, err error, want []string) {
	t.Helper()
	var got []string
	if err != nil {
		if _, ok := errors.AsType[Errors](err); !ok {
			t.Errorf("the error is a %T", err)
		}
		got = strings.Split(err.Error(), "\n")
	}
	for i := range max(len(got), len(want)) {
		var g, w string
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("message %d\n got %s\nwant %s", i, g, w)
		}
	}
}

func TestFaultsAreBounded(t *testing.T) {
	_, err := Parse("f", []byte(strings.Repeat("x", 3)+": 1\n"+manyKeys(200)), Overrides{})
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != maxErrors+1 || lines[maxErrors] != "f: and 151 more errors" {
		t.Errorf("%d lines, the last is %q", len(lines), lines[len(lines)-1])
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("key" + strings.Repeat("y", i) + ": 1\n")
	}
	return b.String()
}

func TestNearestFindsSlipsOfTheHand(t *testing.T) {
	keys := []string{"data", "listeners", "limits", "log", "max_packet", "open"}
	for word, want := range map[string]string{
		"listener":               "listeners",
		"lisetners":              "listeners",
		"max-packet":             "max_packet",
		"Limits":                 "limits",
		"opne":                   "open",
		"logs":                   "log",
		"tls":                    "",
		"dashboard":              "",
		strings.Repeat("a", 500): "",
		"":                       "",
	} {
		if got := nearest(word, keys); got != want {
			t.Errorf("nearest(%.20q) = %q, want %q", word, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("listeners:\n  - address: 0.0.0.0:1883\n    open: true\n"), "limits.max_packet=1MiB")
	f.Add([]byte("uplinks: [{name: a, endpoints: [mqtt://h], rules: [{from: '#', to: 'x/#'}]}]"), "uplinks.0.rules.1.from=a/b")
	f.Add([]byte("a: &a [*a, *a]\n"), "listeners=[[::1]:1]")
	f.Add([]byte("log: {level: [}"), "a.b.c")
	f.Add([]byte(examples()), "uplinks.0.tls={}")
	f.Fuzz(func(t *testing.T, text []byte, set string) {
		c, err := Parse("f", text, Overrides{Set: []string{set}})
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v and error %v", c, err)
		}
		if err != nil && err.Error() == "" {
			t.Fatal("an error without words")
		}
	})
}
