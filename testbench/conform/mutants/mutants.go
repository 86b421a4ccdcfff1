package main

// mutant is a behaviour that is broken on purpose.
type mutant struct {
	name   string // what is wrong then
	file   string
	text   string // stands in file, once
	broken string // stands there instead
	// statements are those whose test must go red, as in 5.0:MQTT-3.1.2-22.
	statements []string
}

// mutants. Each breaks something else, and compiles.
var mutants = []mutant{
	{
		"a Variable Byte Integer need not be minimal", "core/packet/encoding.go",
		"if b[i] == 0 {", "if false {",
		[]string{"5.0:MQTT-1.5.5-1"},
	},
	{
		"the reserved Connect Flag is not looked at", "core/packet/connect.go",
		"return errConnectReserved", "break",
		[]string{"5.0:MQTT-3.1.2-3", "3.1.1:MQTT-3.1.2-3"},
	},
	{
		"a second CONNECT is ignored", "core/broker/client.go",
		`return protocolError("a second CONNECT")`, "return nil",
		[]string{"5.0:MQTT-3.1.0-2", "3.1.1:MQTT-3.1.0-2"},
	},
	{
		"Clean Start is not acted on", "core/broker/connect.go",
		"if m != nil && (k.cleanStart || m.expiry == 0) {", "if m != nil && m.expiry == 0 {",
		[]string{"5.0:MQTT-3.1.2-4", "3.1.1:MQTT-3.1.2-6"},
	},
	{
		"Session Present is always 0", "core/broker/connect.go",
		"a.SessionPresent = e.present", "a.SessionPresent = false",
		[]string{"5.0:MQTT-3.2.2-3", "3.1.1:MQTT-3.2.2-2"},
	},
	{
		"who is taken over is not told", "core/broker/connect.go",
		`b.sendDisconnect(old, packet.SessionTakenOver, "another connection uses the client identifier")`, "",
		[]string{"5.0:MQTT-3.1.4-3"},
	},
	{
		"silence does not close", "core/broker/client.go",
		"case c.keepAlive == 0:", "case c.keepAlive >= 0:",
		[]string{"5.0:MQTT-3.1.2-22", "3.1.1:MQTT-3.1.2-24"},
	},
	{
		"packets are no signs of life", "core/broker/client.go",
		"c.seen = c.b.loop.Now()\n\tif !c.accepted {", "if !c.accepted {",
		[]string{"5.0:§3.1.2.10", "3.1.1:§3.1.2.10"},
	},
	{
		"Response Information comes unasked", "core/broker/connect.go",
		"if k.responses {", "if true {",
		[]string{"5.0:MQTT-3.1.2-28"},
	},
	{
		"problems are explained unasked", "core/broker/reasons.go",
		"return c.version >= packet.V5 && !c.noProblems", "return c.version >= packet.V5",
		[]string{"5.0:MQTT-3.1.2-29"},
	},
	{
		"DISCONNECT makes a session last", "core/broker/connect.go",
		"if m.expiry == 0 && d.SessionExpiry != 0 {", "if false {",
		[]string{"5.0:§3.14.2.2.2 (0)"},
	},
	{
		"the will is published after DISCONNECT, too", "core/broker/member.go",
		"if h == normal || !c.accepted {", "if !c.accepted {",
		[]string{"5.0:MQTT-3.14.4-3", "3.1.1:MQTT-3.14.4-3"},
	},
	{
		"a new connection leaves the delayed will alone", "core/broker/connect.go",
		"b.setWill(m, k.will) // one that was delayed is dropped: its client is back [MQTT-3.1.3-9]\n\tb.endAbsence(m)", "if k.will != nil {\n\t\tb.setWill(m, k.will)\n\t}",
		[]string{"5.0:MQTT-3.1.3-9"},
	},
	{
		"wills do not wait for their delay", "core/broker/wills.go",
		"b.loop.At(b.loop.Now()+wait, m.away.willDue)", "b.loop.At(b.loop.Now()+wait/1000, m.away.willDue)",
		[]string{"5.0:§3.1.3.2.2"},
	},
	{
		"the greater QoS counts", "core/broker/publish.go",
		"min(pub.QoS, qos)", "max(pub.QoS, qos)",
		[]string{"5.0:MQTT-3.8.4-8", "3.1.1:MQTT-3.8.4-6"},
	},
	{
		"RETAIN goes on as it came", "core/broker/publish.go",
		"asPublished && pub.Retain", "(asPublished || true) && pub.Retain",
		[]string{"5.0:MQTT-3.3.1-12", "3.1.1:MQTT-3.3.1-9"},
	},
	{
		"No Local is not acted on", "core/broker/publish.go",
		"continue // [MQTT-3.8.3-3]", "own.QoS = m.QoS",
		[]string{"5.0:MQTT-3.8.3-3"},
	},
	{
		"Retain Handling 1 is as 0", "core/broker/subscribe.go",
		"sub.RetainHandling == 1 && before == nil", "sub.RetainHandling == 1",
		[]string{"5.0:MQTT-3.3.1-10"},
	},
	{
		"Subscription Identifiers are forgotten", "core/broker/subscribe.go",
		"p.SubscriptionID,\n", "0,\n",
		[]string{"5.0:MQTT-3.3.4-3", "5.0:MQTT-3.3.4-4"},
	},
	{
		"UNSUBACK knows every filter", "core/broker/subscribe.go",
		"code := packet.NoSubscriptionExisted", "code := packet.Success",
		[]string{"5.0:MQTT-3.11.3-2"},
	},
	{
		"wildcards match $", "core/route/match.go",
		"topic[0] != '$'", "topic[0] != 0",
		[]string{"5.0:MQTT-4.7.2-1", "3.1.1:MQTT-4.7.2-1"},
	},
	{
		"what is sent again has no DUP", "core/broker/deliver.go",
		"p.Dup = again", "p.Dup = false",
		[]string{"5.0:MQTT-3.3.1-1", "3.1.1:MQTT-3.3.1-1"},
	},
	{
		"what has expired is delivered", "core/broker/deliver.go",
		"return m.HasExpiry && b.clock", "return false && b.clock",
		[]string{"5.0:MQTT-3.3.2-5"},
	},
	{
		"the expiry is passed on whole", "core/broker/deliver.go",
		"p.Expiry = b.remaining(msg)", "p.Expiry = msg.Expiry",
		[]string{"5.0:MQTT-3.3.2-6"},
	},
	{
		"explanations are not left out where they are too large", "core/broker/reasons.go",
		"i < len(leave) && !c.takes(s)", "i < 0 && !c.takes(s)",
		[]string{"5.0:MQTT-3.1.2-24", "5.0:MQTT-3.4.2-2", "5.0:MQTT-3.9.2-1", "5.0:MQTT-3.14.2-3"},
	},
	{
		"the client's Maximum Packet Size is not looked at", "core/broker/deliver.go",
		"if c.maxPacket != 0 && s.Len()", "if c.maxPacket > 1<<30 && s.Len()",
		[]string{"5.0:MQTT-3.1.2-25"},
	},
	{
		"one PUBLISH more than the Receive Maximum is taken", "core/broker/publish.go",
		"> c.receiveMaximum() {", "> c.receiveMaximum()+1 {",
		[]string{"5.0:MQTT-3.3.4-7"},
	},
	{
		"the client gets one more than its Receive Maximum", "core/session/outgoing.go",
		"return min(int(s.window)-int(s.outstanding),", "return min(int(s.window)-int(s.outstanding)+1,",
		[]string{"5.0:MQTT-3.3.4-9", "5.0:MQTT-4.9.0-2"},
	},
	{
		"QoS 2 that comes again is delivered again", "core/session/incoming.go",
		"if i := s.incomingByID(id); i >= 0 {\n\t\treturn false, s.incoming[i].Committed", "if i := s.incomingByID(id); i >= 1<<20 {\n\t\treturn false, s.incoming[i].Committed",
		[]string{"5.0:MQTT-4.3.3-10", "3.1.1:MQTT-4.3.3-2"},
	},
	{
		"PUBRECs and PUBACKs leave as they are ready", "core/broker/acks.go",
		"k := a.owed[a.head]\n\ta.head++", "k := a.owed[len(a.owed)-1]\n\ta.owed[len(a.owed)-1] = a.owed[a.head]\n\ta.head++",
		[]string{"5.0:MQTT-4.6.0-2", "5.0:MQTT-4.6.0-3"},
	},
	{
		"the PUBRELs of an earlier connection are not sent again", "core/broker/connect.go",
		"func(id packet.ID) { b.sendAck(c, packet.PUBREL, id, packet.Success) },", "func(id packet.ID) {},",
		[]string{"5.0:MQTT-4.4.0-1", "3.1.1:MQTT-4.4.0-1"},
	},
	{
		"the highest Topic Alias is refused", "core/broker/aliases.go",
		"n > limits.TopicAliases {", "n >= limits.TopicAliases {",
		[]string{"5.0:MQTT-3.3.2-12"},
	},
	{
		"members of a group get the QoS of the publisher", "core/broker/group.go",
		"qos: min(pub.QoS, s.qos)", "qos: pub.QoS",
		[]string{"5.0:MQTT-4.8.2-3"},
	},
	{
		"QoS 2 that was sent goes from member to member", "core/broker/publish.go",
		`if t.share != "" && t.qos == 1 {`, `if t.share != "" {`,
		[]string{"5.0:MQTT-4.8.2-5"},
	},
	{
		"clients are sent on for good where they are not, and the reverse", "core/broker/listener.go",
		"if r.Permanent {", "if !r.Permanent {",
		[]string{"5.0:§4.11"},
	},
	{
		"the retain flag of a will is lost", "core/broker/connect.go",
		"p.Will.Retain,\n", "false,\n",
		[]string{"5.0:MQTT-3.1.2-15", "3.1.1:MQTT-3.1.2-17"},
	},
	{
		"every message is retained", "core/broker/publish.go",
		"} else if pub.Retain {\n\t\tb.retain(pub, waiter)", "} else if len(pub.Payload) > 0 {\n\t\tb.retain(pub, waiter)",
		[]string{"5.0:MQTT-3.3.1-8", "3.1.1:MQTT-3.3.1-12"},
	},
	{
		"sessions last too long", "core/broker/member.go",
		"b.watchExpiry(m, time.Duration(m.expiry)*time.Second)", "b.watchExpiry(m, time.Duration(m.expiry)*time.Hour)",
		[]string{"5.0:MQTT-4.1.0-2"},
	},
	{
		"strangers get a CONNACK", "core/broker/client.go",
		`if c.connecting || c.pendingID != "" || fault.Code`, `if true || fault.Code`,
		[]string{"5.0:MQTT-3.1.0-1", "3.1.1:MQTT-3.1.0-1", "3.1.1:MQTT-3.1.4-1"},
	},
	{
		"clients without an identifier are all the same", "core/broker/connect.go",
		"newClientID(), true", `"dunlin", true`,
		[]string{"5.0:MQTT-3.2.2-16", "3.1.1:MQTT-3.1.3-6"},
	},
	{
		"who breaks the protocol has no will", "core/broker/client.go",
		"b.sendDisconnect(c, code, why)\n\tb.end(c, abnormal)", "b.sendDisconnect(c, code, why)\n\tb.end(c, normal)",
		[]string{"5.0:MQTT-3.1.2-8", "3.1.1:MQTT-3.1.2-8"},
	},
	{
		"reserved subscription options are not looked at", "core/packet/subscribe.go",
		"case options&optionsReserved != 0:", "case options&0 != 0:",
		[]string{"5.0:MQTT-3.8.3-5"},
	},
	{
		"a password needs no user name in 3.1.1", "core/packet/connect.go",
		"c.Version < V5:\n\t\treturn errPasswordAlone", "c.Version < V31:\n\t\treturn errPasswordAlone",
		[]string{"3.1.1:MQTT-3.1.2-22"},
	},
	{
		"a release of an unknown message is not answered", "core/broker/publishing.go",
		"b.sendAck(c, packet.PUBCOMP, id, packet.PacketIDNotFound)", "",
		[]string{"5.0:§3.7.2.1"},
	},
	{
		"of overlapping subscriptions the last counts", "core/route/route.go",
		"case q > m.QoS:", "case q != m.QoS:",
		[]string{"5.0:MQTT-3.3.4-2", "3.1.1:MQTT-3.3.5-1"},
	},
	{
		"what was sent expires, too", "core/broker/deliver.go",
		"if !m.state.Begun(e.Seq) {", "if true {",
		[]string{"5.0:MQTT-4.3.3-7"},
	},
	{
		"persistent sessions that are away get nothing", "core/broker/publish.go",
		"case m.state.Durable():\n\t\tif !b.fits(m, pub) {", "case m.state.Durable():\n\t\tif !m.online() || !b.fits(m, pub) {",
		[]string{"5.0:MQTT-4.5.0-1", "3.1.1:MQTT-3.1.2-5"},
	},
	{
		"strings may have a null character", "core/topic/topic.go",
		"bytes.IndexByte(b, 0) >= 0", "bytes.IndexByte(b, 0) >= len(b)",
		[]string{"5.0:MQTT-1.5.4-2", "3.1.1:MQTT-1.5.3-2"},
	},
	{
		"a retained message cannot be removed", "core/retain/retain.go",
		"\t\ts.Delete(m.Topic)\n\t\treturn true", "\t\treturn true",
		[]string{"5.0:MQTT-3.3.1-6", "3.1.1:MQTT-3.3.1-10"},
	},
}
