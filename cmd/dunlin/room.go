package main

import (
	"log/slog"
	"path/filepath"

	"dunlin/cmd/dunlin/config"
	"dunlin/storeforward/boltfile"
)

// reserveFile takes room that is given back when the disk is full.
const reserveFile = "reserve"

// room is what the files may use of the disk.
type room struct {
	config.Bounds
	reserve *boltfile.Reserve
}

// newRoom finds out the bounds and makes the reserve. Without a data folder there is neither.
func newRoom(cfg *config.Config, without *lacks, logger *slog.Logger) (r room, err error) {
	if without.folder != nil {
		r.Spools = make([]int64, len(cfg.Uplinks))
		return r, nil
	}
	if r.Bounds, err = cfg.Bounds(); err != nil {
		return r, err
	}
	r.reserve = boltfile.NewReserve(filepath.Join(cfg.Data, reserveFile), r.Reserve, logger)
	return r, nil
}
