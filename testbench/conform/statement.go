package main

import "dunlin/core/packet"

// statement is a normative statement about a server, or a rule of the text without a number.
type statement struct {
	id   string // as in the Standard, or § and the section
	says string // in our words
	row  int    // of the list of features that are accepted together
	// One of the three: check tests it; or test, a Go test of the tree ("core/broker.TestX"), since it
	// takes a clock, a disk or a server that only a test of that package has; or note says why
	// nothing can.
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

// statements31 is what MQTT 3.1 adds; its text has no numbers.
var statements31 = []statement{
	{id: "§3.1", says: "protocol name MQIsdp with version 3 is served, or refused with code 1", row: 58, check: version31IsTakenOrRefused},
}
