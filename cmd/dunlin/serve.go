package main

import (
	"context"
	"errors"
	"flag"

	"dunlin/cmd/dunlin/config"
	"dunlin/platform/service"
)

const serveHelp = `Usage: dunlin serve [--config FILE] [--listen ADDR]... [--data DIR]
                    [--set KEY.PATH=VALUE]...

Runs the broker until SIGINT or SIGTERM. Without options it listens on
127.0.0.1:1883, lets in everybody on this machine, and keeps its data in
./dunlin-data.

  --config FILE   read the configuration from FILE; what it does not say has
                  its default ("dunlin check --sample" prints them all)
  --listen ADDR   listen on ADDR instead of the addresses of the file:
                  127.0.0.1:1883, [::1]:1883, :1883, unix:/path or
                  systemd:NAME; repeatable
  --data DIR      keep the data in DIR
  --set KEY.PATH=VALUE
                  override one value of the file: limits.max_packet=1MiB,
                  listeners.0.open=true; repeatable
`

func serve(c *call) error {
	fs := c.options()
	file, overrides := configOptions(fs)
	others, err := c.parse(fs)
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return usagef("%q is not an option; a file goes behind --config", others[0])
	}
	cfg, err := config.Load(*file, *overrides)
	if err != nil {
		return err
	}
	logger := newLogger(cfg.Log, c.err)
	for _, w := range cfg.Warnings {
		logger.Warn("doubtful setting", "at", w)
	}
	ctx, stop := service.Signals(context.Background())
	defer stop()
	for without := newLacks(logger); ; {
		if err := run(ctx, cfg, without, logger); !errors.Is(err, errAnew) {
			return err
		}
	}
}

// configOptions defines the options that choose and override a configuration.
func configOptions(fs *flag.FlagSet) (file *string, o *config.Overrides) {
	o = &config.Overrides{}
	file = fs.String("config", "", "")
	fs.StringVar(&o.Data, "data", "", "")
	fs.Func("listen", "", func(s string) error {
		o.Listen = append(o.Listen, s)
		return nil
	})
	fs.Func("set", "", func(s string) error {
		o.Set = append(o.Set, s)
		return nil
	})
	return file, o
}
