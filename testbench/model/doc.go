// Package model compares a broker with a plain model of what it owes to its clients, while random
// events happen to both: see TestSessionsKeepWhatTheModelPromises.
package model
