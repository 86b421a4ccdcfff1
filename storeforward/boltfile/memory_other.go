//go:build !linux

package boltfile

import "go.etcd.io/bbolt"

func preread(string, func(int)) {}

func forget(*bbolt.Tx) {}
