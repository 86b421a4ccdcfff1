package main

import "dunlin/core/packet"

// statement is a normative statement about a server, or a rule of the text without a number.
type statement struct {
	id   string // as in the Standard, or § and the section
	says string // in our words
	row  int    // of the list of features that are accepted together
	// One of the three: check tests it; or test, a Go test of the tree ("core/broker.TestX"), since it
	// takes a clock, a disk or a server that only a test of that package has; or note says why it
	// needs none: aboutClients, or a test fails.
	check check
	test  string
	note  string
}

// standard is a version of the protocol and what it asks of a server.
type standard struct {
	version    packet.Version
	name       string
	statements []statement
	numbers    []section
}

var standards = []standard{
	{packet.V5, "5.0", statements50, numbers50},
	{packet.V311, "3.1.1", statements311, numbers311},
	{packet.V31, "3.1", statements31, nil},
}

// rows of the list of features; 52, 53 and 56 are AUTH and WebSocket, which stand outside.
const lastRow = 58

var outside = []int{52, 53, 56}

// aboutClients is why a statement has no test: a server that is conformant on its own side cannot
// break it. Those that the uplink has to keep, which is a client, name its tests.
const aboutClients = "it binds clients alone"

// statements31 are those of MQTT 3.1, whose text has no numbers. What is not about its own ways rests
// on the checks of 3.1.1.
var statements31 = []statement{
	{id: "§3.1", says: "protocol name MQIsdp with version 3 is served, or refused with code 1", row: 58, check: version31IsTakenOrRefused},
	{id: "§3.1 (session)", says: "without Clean Session subscriptions and messages wait for the client", row: 58, check: sessionIsResumed},
	{id: "§3.1 (clean)", says: "with it nothing does", row: 58, check: sessionEndsWithItsConnection},
	{id: "§3.1 (keep alive)", says: "silence for 1.5 times the keep alive closes", row: 58, check: keepAliveClosesAfterOneAndAHalf},
	{id: "§3.1 (will)", says: "a will is published when the connection ends without DISCONNECT", row: 58, check: willIsPublished},
	{id: "§3.14", says: "DISCONNECT deletes the will", row: 58, check: disconnectDeletesTheWill},
	{id: "§3.1 (will retain)", says: "a will may be retained", row: 58, check: willIsRetained},
	{id: "§2.1 (retain)", says: "retained messages come to new subscribers, marked", row: 58, check: retainedIsReplacedAndRemoved},
	{id: "§3.9", says: "SUBACK has the granted QoS of each filter", row: 58, check: subackAnswersEachFilter},
	{id: "§3.8", says: "the QoS is the lower of the published and the granted", row: 58, check: qosIsTheLower},
	{id: "§3.10", says: "UNSUBSCRIBE ends a subscription and is answered", row: 58, check: unsubscribeMatchesExactly},
	{id: "§3.12", says: "PINGREQ is answered with PINGRESP", row: 58, check: pingIsAnswered},
	{id: "§4.1 (1)", says: "QoS 1: at least once, with a PUBACK", row: 58, check: qos1IsAcknowledged},
	{id: "§4.1 (2)", says: "QoS 2: once, with PUBREC, PUBREL, PUBCOMP", row: 58, check: duplicateIsNotDelivered},
	{id: "§4.1 (power)", says: "QoS 2: once, whenever the power goes", row: 58, check: flowsSurviveAKill},
	{id: "§4.2", says: "what is unacknowledged comes again after a reconnect, with DUP", row: 58, check: resendsComeWithTheirIDs},
	{id: "§4.3", says: "the messages of one publisher keep their order", row: 58, check: orderIsKept},
	{id: "appendix A", says: "wildcards match level by level", row: 58, check: filtersMatch},
}
