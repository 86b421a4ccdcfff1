// Package packaging holds what is installed beside the binary, and the part of it that the
// binary carries, too.
package packaging

import _ "embed" // the sample below

// Sample is the commented sample of the configuration file. Its values are the defaults.
//
//go:embed dunlin.yaml
var Sample []byte
