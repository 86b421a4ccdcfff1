package main

import "dunlin/core/packet"

// statement is a normative statement about a server, or a rule of the text without a number.
type statement struct {
	id   string // as in the Standard, or § and the section
	says string // in our words
	row  int    // of the list of features that are accepted together
	// check tests it; nil if nothing does, and note says why.
	check check
	note  string
	// notYet: our broker does not have the feature. The check sees that it says so and refuses it.
	notYet bool
}

// standard is a version of the protocol and what it asks of a server.
type standard struct {
	version    packet.Version
	name       string
	statements []statement
}

var standards = []standard{
	{packet.V5, "5.0", statements50},
	{packet.V311, "3.1.1", statements311},
	{packet.V31, "3.1", statements31},
}

// rows of the list of features; 52, 53 and 56 are AUTH and WebSocket, which stand outside.
const lastRow = 58

var outside = []int{52, 53, 56}

// Reasons why a statement has no check.
const (
	aboutClients  = "it binds the client, and what a server does about it stands in another row"
	notVisible    = "not testable from outside: no packet shows the difference"
	uplinkTests   = "the uplink's part: its tests let it meet a server that watches"
	notOffered    = "not testable from outside: nothing makes the server send it"
	freeChoice    = "not testable from outside: the Standard leaves the choice to the server"
	metByChecking = "met by every check: each packet is parsed strictly"
)

// statements31 is what MQTT 3.1 adds; its text has no numbers.
var statements31 = []statement{
	{id: "§3.1", says: "protocol name MQIsdp with version 3 is served, or refused with code 1", row: 58, check: version31IsTakenOrRefused},
}
