package main

import (
	"context"
	"errors"
	"log/slog"

	"dunlin/cmd/dunlin/config"
	"dunlin/core/broker"
	"dunlin/platform/clock"
)

type uplinks struct{}

func openUplinks(cfg *config.Config, h *clock.History, logger *slog.Logger) (*uplinks, error) {
	if len(cfg.Uplinks) > 0 {
		return nil, errors.New("this build has no uplinks")
	}
	return &uplinks{}, nil
}
func (u *uplinks) outboxes() []broker.Outbox                 { return nil }
func (u *uplinks) run(ctx context.Context, b *broker.Broker) {}
func (u *uplinks) names() []string                           { return nil }
func (u *uplinks) close() error                              { return nil }
