package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"strings"
	"time"

	"dunlin/cmd/dunlin/config"
	"dunlin/core/broker"
	"dunlin/platform/clock"
	"dunlin/storeforward/boltfile"
	"dunlin/storeforward/spool"
	"dunlin/uplink/forward"
	"dunlin/uplink/mqtt"
	"dunlin/uplink/runner"
)

// uplinks are the uplinks of the configuration, each with its spool.
type uplinks []*runner.Uplink

// openUplinks opens the spools. Nothing connects before start.
func openUplinks(ctx context.Context, mend *mender, without *lacks, cfg *config.Config, h *clock.History, budget *boltfile.Budget, r room, logger *slog.Logger) (ups uplinks, err error) {
	for i := range cfg.Uplinks {
		o, err := uplinkOptions(cfg, &cfg.Uplinks[i])
		if err == nil {
			o.Clock, o.Budget, o.Log = h, budget, logger
			o.SpoolMaxBytes, o.Reserve = r.Spools[i], r.reserve
		}
		var u *runner.Uplink
		if err == nil {
			u, err = openKept(ctx, mend, without, runner.SpoolPath(cfg.Data, o.Name), func(warm bool, absent error) (*runner.Uplink, error) {
				o.SpoolWarm, o.SpoolAbsent, o.SpoolDamaged = warm, absent, without.damaged
				return runner.Open(o)
			})
		}
		if err != nil {
			return nil, errors.Join(err, ups.close())
		}
		ups = append(ups, u)
	}
	ups.reportOrphans(cfg.Data, logger)
	return ups, nil
}

// uplinkOptions turns a checked configuration into what the runner takes.
func uplinkOptions(cfg *config.Config, u *config.Uplink) (runner.Options, error) {
	password, err := u.Password()
	if err != nil {
		return runner.Options{}, err
	}
	policy, err := spool.ParsePolicy(u.Spool.WhenFull)
	if err != nil {
		return runner.Options{}, fmt.Errorf("uplink %q: %w", u.Name, err)
	}
	expiry := u.SessionExpiry
	if expiry == config.Never {
		expiry = math.MaxUint32 * time.Second // does not expire (MQTT5 §3.1.2.11.2)
	}
	return runner.Options{
		Name:          u.Name,
		Endpoint:      u.Endpoints[0],
		ClientID:      u.ClientID,
		Username:      u.Username,
		Password:      string(password),
		TLS:           mqtt.TLS(u.TLS),
		KeepAlive:     u.KeepAlive,
		SessionExpiry: expiry,
		Rules:         u.Rules,
		Down:          u.Down,
		MaxInFlight:   u.MaxInFlight,
		Backoff:       forward.Backoff(u.Backoff),
		WhenFull:      policy,
		Folder:        cfg.Data,
		SaveAfter:     cfg.Store.SaveAfter,
		Linger:        cfg.Store.Linger,
		NoSync:        cfg.Store.UnsafeNoSync,
	}, nil
}

// reportOrphans names the spools that no uplink of the configuration has. They are kept.
func (ups uplinks) reportOrphans(folder string, logger *slog.Logger) {
	files, err := filepath.Glob(runner.SpoolPath(folder, "*"))
	if err != nil {
		panic("dunlin: internal error: " + err.Error()) // the pattern is ours
	}
	used := make(map[string]bool)
	for _, u := range ups {
		used[runner.SpoolPath(folder, u.Name())] = true
	}
	for _, f := range files {
		if !used[f] {
			logger.Warn("spool of an uplink that is not configured; its messages are kept", "path", f)
		}
	}
}

// outboxes are the uplinks as the broker sees them.
func (ups uplinks) outboxes() (boxes []broker.Outbox) {
	for _, u := range ups {
		boxes = append(boxes, u)
	}
	return boxes
}

// start connects the uplinks; what comes down goes to b.
func (ups uplinks) start(b *broker.Broker) {
	for _, u := range ups {
		u.Start(b)
	}
}

// close disconnects the uplinks, writes what they were given and closes their spools.
func (ups uplinks) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	var errs []error
	for _, u := range ups {
		errs = append(errs, u.Close(ctx))
	}
	return errors.Join(errs...)
}

func (ups uplinks) names() string {
	if len(ups) == 0 {
		return "none"
	}
	names := make([]string, len(ups))
	for i, u := range ups {
		names[i] = u.Name()
	}
	return strings.Join(names, ", ")
}
