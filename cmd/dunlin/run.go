package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"dunlin/cmd/dunlin/config"
	"dunlin/core/access"
	"dunlin/core/auth"
	"dunlin/core/broker"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/platform/clock"
	"dunlin/platform/service"
	"dunlin/storeforward/boltfile"
	"dunlin/storeforward/sessionstore"
)

// stopTime is how long a stop may take: clients are told, queues are committed.
const stopTime = 10 * time.Second

// run is the broker: it serves until ctx ends, and returns when everything it started has ended.
//
// Start: data folder, session store, uplinks' spools, broker, loop, listeners, READY. Stop, in the
// other direction: clients are told, the loop ends, uplinks and their spools and the store are
// closed.
//
// What of the data folder cannot be used goes into without, and the broker serves without it. Once it
// can be used, and when damage is met, the error is errAnew, and run is to be called again.
func run(ctx context.Context, cfg *config.Config, without *lacks, logger *slog.Logger) (err error) {
	service.LimitHeap()
	service.LimitGarbage()
	files, err := service.RaiseNoFile()
	if err != nil {
		logger.Warn("limit of open files stays low", "err", err)
	}
	memory := service.NewMemory(service.Settled)
	defer memory.Stop()
	without.begin()
	unlock, err := without.lock(cfg.Data)
	if err != nil {
		return err
	}
	defer unlock()

	clk := clock.New()
	mend := newMender(logger)
	if without.folder == nil {
		var over func()
		mend.suspect, over = counted(cfg.Data, logger)
		defer over()
	}
	budget := newBudget(cfg.Store.Flash, logger)
	r, err := newRoom(cfg, without, logger)
	if err != nil {
		return err
	}
	store, err := openStore(ctx, mend, without, cfg, clk, budget, r, logger)
	if err != nil {
		return err
	}
	// Whatever happens from here on, what was handed over is committed.
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		err = errors.Join(err, store.Close(ctx))
	}()

	authenticator, policy, err := doors(cfg)
	if err != nil {
		return err
	}
	defer authenticator.Close()

	times := moments{store.History()}
	ups, err := openUplinks(ctx, mend, without, cfg, store.History(), budget, r, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ups.close()) }()
	for _, u := range ups {
		store.GoOnBehind(u.Spool().Source())
	}

	damage, missing := mend.alarm(cfg.Data), without.alarm()
	automatic, err := autoSubscriptions(cfg)
	if err != nil {
		return err
	}
	rules, err := durability(cfg.Store.Durability)
	if err != nil {
		return err
	}
	if relaxed := cfg.Store.Relaxed(); len(relaxed) > 0 {
		logger.Warn("messages of these topics are acknowledged before they are on disk", "relaxed", strings.Join(relaxed, " "))
	}
	b, err := broker.New(broker.Options{
		Store:    store,
		Outboxes: ups.outboxes(),
		Restored: store.Sessions(),
		Retained: store.Retained(),
		Delayed:  store.Delayed(),
		Auth:     authenticator,
		Policy:   policy,
		Clock:    times,
		Limits:   limits(cfg, files),
		Log:      logger,

		Rewrites:       cfg.Rewrite,
		AutoSubscribe:  automatic,
		IOThreads:      ioThreads(cfg.IOThreads, runtime.GOMAXPROCS(0)),
		ResponsePrefix: cfg.Sessions.ResponseInformation,
		Freed:          memory.Freed,
		SysInterval:    cfg.Sys.Interval,
		Version:        version,
		Ledger:         store,
		Durability:     rules,
		Values:         append(flashValues(budget), relaxedValue(&cfg.Store)),
		Alarms: []broker.Alarm{
			{Name: "damage", Text: func() string { return damage }},
			{Name: "missing", Text: func() string { return missing }},
			{Name: "ledger", Text: func() string { return ledgerAlarm(store) }},
			flashAlarm(budget, cfg.Store.Flash),
		},
	})
	if err != nil {
		return err
	}
	store.Start(b.Completer())
	return serveUntil(ctx, b, &admin{store: store, b: b, ups: ups, cfg: cfg, log: logger}, ups, without, cfg, logger)
}

// openStore opens the session store.
func openStore(ctx context.Context, mend *mender, without *lacks, cfg *config.Config, clk *clock.Clock, budget *boltfile.Budget, r room, logger *slog.Logger) (store *sessionstore.Store, err error) {
	path := filepath.Join(cfg.Data, sessionsFile)
	open := func(warm bool, absent error) (s *sessionstore.Store, err error) {
		return sessionstore.Open(path, sessionstore.Options{
			Clock:     clk,
			Absent:    absent,
			Damaged:   without.damaged,
			Warm:      warm,
			Linger:    cfg.Store.Linger,
			SaveAfter: cfg.Store.SaveAfter,
			Budget:    budget,
			MaxBytes:  r.Store,
			Reserve:   r.reserve,
			NoSync:    cfg.Store.UnsafeNoSync,
			Log:       logger,
		})
	}
	return openKept(ctx, mend, without, path, open)
}

// serveUntil runs the loop, the listeners and the watchdog, and starts the uplinks, until ctx ends
// or one of them fails.
func serveUntil(ctx context.Context, b *broker.Broker, a *admin, ups uplinks, without *lacks, cfg *config.Config, logger *slog.Logger) error {
	loopCtx, endLoop := context.WithCancel(context.Background())
	defer endLoop()
	parts, failed := context.WithCancelCause(ctx)
	defer failed(nil)
	var loop, others sync.WaitGroup
	// The loop ends by endLoop, after the clients were told; the others by parts. All are waited
	// for below.
	loop.Go(func() { failed(b.Run(loopCtx)) })
	ups.start(b)
	ls := newListeners(b, cfg, logger)
	a.listening = &ls.told
	defer a.open().close()
	if err := ls.open(parts); err != nil {
		failed(err)
	} else {
		logger.Info("dunlin is ready", "version", version, "listening", ls.addresses(),
			"data", cfg.Data, "authentication", cfg.Auth.Enabled(), "uplinks", ups.names())
		if err := service.Ready(ls.status()); err != nil {
			logger.Warn("systemd was not told", "err", err)
		}
		if err := service.ForgetProgram(); err != nil {
			logger.Debug("the program's file stays in memory", "err", err)
		}
		others.Go(func() { ls.retry(parts) })
		others.Go(func() {
			if err := without.watch(parts); err != nil {
				failed(err)
			}
		})
		others.Go(func() {
			if err := service.Watchdog(parts, logger, b.Alive); err != nil {
				failed(err)
			}
		})
	}

	<-parts.Done()
	logger.Info("stopping")
	tell := service.Stopping
	if errors.Is(context.Cause(parts), errAnew) {
		tell = service.Status // the service goes on
	}
	if err := tell("telling the clients"); err != nil {
		logger.Warn("systemd was not told", "err", err)
	}
	stopCtx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	b.Shutdown(stopCtx)
	others.Wait()
	ls.removeSockets()
	endLoop()
	loop.Wait()
	if cause := context.Cause(parts); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// doors makes what decides who comes in and what they may do.
func doors(cfg *config.Config) (*auth.Authenticator, *access.Policy, error) {
	var passwords *auth.PasswordFile
	if cfg.Auth.Enabled() {
		var err error
		if passwords, err = auth.ReadPasswordFile(cfg.Auth.Passwords); err != nil {
			return nil, nil, err
		}
	}
	policy, err := access.New(cfg.Access)
	if err != nil {
		return nil, nil, err
	}
	return auth.New(auth.Options{Passwords: passwords}), policy, nil
}

func autoSubscriptions(cfg *config.Config) (all []broker.AutoSubscription, err error) {
	for _, a := range cfg.AutoSubscribe {
		t, err := access.ParseTemplate(a.Topic)
		if err != nil {
			return nil, fmt.Errorf("auto_subscribe: %q: %w", a.Topic, err)
		}
		all = append(all, broker.AutoSubscription{
			Topic:             t,
			QoS:               packet.QoS(a.QoS),
			NoLocal:           a.NoLocal,
			RetainAsPublished: a.RetainAsPublished,
			RetainHandling:    byte(a.RetainHandling),
		})
	}
	return all, nil
}

// reservedFiles is how many descriptors connections leave to the store, which opens its file anew
// after a failed commit, to the spools and to the links of uplinks.
const reservedFiles = 64

// ioThreads is how many threads read and write sockets, by what the configuration says and how many
// processors there are.
func ioThreads(configured, processors int) int {
	if configured > 0 {
		return configured
	}
	return min(max(processors/2, 1), 4)
}

func limits(cfg *config.Config, files uint64) broker.Limits {
	aliases := cfg.Limits.TopicAliases
	if aliases == 0 {
		aliases = -1
	}
	delayed := cfg.Delayed.MaxMessages
	if delayed == 0 {
		delayed = -1
	}
	keepAlive := cfg.Limits.MaxKeepAlive
	if keepAlive == config.Never {
		keepAlive = 0
	}
	resendAfter := cfg.Limits.ResendAfter
	if resendAfter == config.Never {
		resendAfter = 0
	}
	return broker.Limits{
		MaxConnections:   int(min(files-min(files/2, reservedFiles), math.MaxInt32)),
		MaxPacket:        int(cfg.Limits.MaxPacket),
		MaxTopicLevels:   cfg.Limits.MaxTopicLevels,
		MaxSubscriptions: cfg.Limits.MaxSubscriptions,
		MaxInFlight:      cfg.Limits.MaxInFlight,
		ReceiveMaximum:   cfg.Limits.ReceiveMaximum,
		MaxOutput:        int(cfg.Limits.MaxOutput),
		MaxWillBytes:     cfg.Limits.MaxWills,
		Linger:           cfg.Store.Linger,
		ConnectTimeout:   cfg.Limits.ConnectTimeout,
		MaxConnectRate:   cfg.Limits.MaxConnectRate,
		MaxMessageRate:   cfg.Limits.MaxMessageRate,
		MaxQueued:        cfg.Sessions.MaxQueuedMessages,
		MaxQueuedBytes:   cfg.Sessions.MaxQueuedBytes,
		DropOldest:       cfg.Sessions.WhenFull == "drop_oldest",
		KeepWhenFull:     cfg.Store.WhenFull == "reject",
		MaxSessionExpiry: cfg.Sessions.MaxExpiry,
		WillGrace:        cfg.Sessions.WillGrace,
		MaxRetained:      cfg.Retained.MaxMessages,
		MaxRetainedBytes: cfg.Retained.MaxBytes,

		MaxDelayed:        delayed,
		MaxDelayedBytes:   cfg.Delayed.MaxBytes,
		MaxDelay:          cfg.Delayed.MaxDelay,
		MaxKeepAlive:      keepAlive,
		ResendAfter:       resendAfter,
		TopicAliases:      aliases,
		HasMaxQoS:         cfg.Limits.MaxQoS < 2,
		MaxQoS:            packet.QoS(cfg.Limits.MaxQoS),
		NoRetain:          !cfg.Limits.Retain,
		NoWildcards:       !cfg.Limits.Wildcards,
		NoSubscriptionIDs: !cfg.Limits.SubscriptionIDs,
		NoShared:          !cfg.Limits.SharedSubscriptions,
		CheckPayloads:     cfg.Limits.CheckPayloadFormat,
	}
}

// moments dates messages by the boot of the machine; it is the broker's Clock.
type moments struct{ history *clock.History }

// Stamp is now.
func (m moments) Stamp() message.Stamp {
	boot, millis, wall := m.history.Now()
	return message.Stamp{Boot: boot, Millis: millis, Wall: wall}
}

// Elapsed is the time since s.
func (m moments) Elapsed(s message.Stamp) time.Duration { return m.history.Elapsed(s.Boot, s.Millis) }
