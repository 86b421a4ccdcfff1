package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"dunlin/cmd/dunlin/config"
	"dunlin/core/auth"
	"dunlin/packaging"
)

const checkHelp = `Usage: dunlin check FILE [--set KEY.PATH=VALUE]...
       dunlin check --sample

Reads the configuration FILE and everything that it names (password file,
certificates), and says what it amounts to; or names all that is wrong, one
line each: file, line, column, what is wrong, what is allowed. It starts
nothing.

  --set KEY.PATH=VALUE   override a value, as in "dunlin serve"; repeatable
  --sample               print a commented sample with all defaults
`

func check(c *call) error {
	fs := c.options()
	_, overrides := configOptions(fs)
	sample := fs.Bool("sample", false, "")
	others, err := c.parse(fs)
	if err != nil {
		return err
	}
	if *sample {
		if len(others) > 0 {
			return usagef("--sample takes no file")
		}
		_, err := c.out.Write(packaging.Sample)
		return err
	}
	if len(others) != 1 {
		return usagef("wants one file, got %d", len(others))
	}
	cfg, err := config.Load(others[0], *overrides)
	if err != nil {
		return err
	}
	users, err := secrets(cfg)
	if err != nil {
		return err
	}
	for i := range cfg.Uplinks {
		o, err := uplinkOptions(cfg, &cfg.Uplinks[i])
		if err == nil {
			err = o.Validate()
		}
		if err != nil {
			return err
		}
	}
	for _, w := range append(cfg.Warnings, strangers(cfg, users)...) {
		fmt.Fprintf(c.err, "warning: %s\n", w)
	}
	_, err = c.out.Write(summary(others[0], cfg, users))
	return err
}

// secrets reads the files with passwords. users is nil if there is no authentication.
func secrets(cfg *config.Config) (users *auth.PasswordFile, err error) {
	var faults []error
	if cfg.Auth.Enabled() {
		users, err = auth.ReadPasswordFile(cfg.Auth.Passwords)
		faults = append(faults, err)
	}
	for i := range cfg.Uplinks {
		_, err := cfg.Uplinks[i].Password()
		faults = append(faults, err)
	}
	return users, errors.Join(faults...)
}

// strangers are warnings of access rules for users that cannot come in.
func strangers(cfg *config.Config, users *auth.PasswordFile) (warnings []string) {
	if users == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Access.Users)) {
		if !users.Has(name) {
			warnings = append(warnings, fmt.Sprintf("access.users.%s: there is no such user in %s", name, cfg.Auth.Passwords))
		}
	}
	return warnings
}

// summary says in a few lines what a configuration amounts to.
func summary(file string, cfg *config.Config, users *auth.PasswordFile) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s: ok\n", file)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	line := func(key, format string, args ...any) {
		fmt.Fprintf(w, "  %s\t%s\n", key, fmt.Sprintf(format, args...))
	}
	line("data", "%s", cfg.Data)
	for _, l := range cfg.Listeners {
		line("listener", "%s, %s", l.Address, doorSummary(cfg, l))
	}
	if users == nil {
		line("users", "none")
	} else {
		line("users", "%d in %s", users.Len(), cfg.Auth.Passwords)
	}
	line("access", "%s", accessSummary(cfg))
	for _, u := range cfg.Uplinks {
		line("uplink", "%s to %s, %s up, %s down", u.Name, u.Endpoints[0], rules(len(u.Rules)), rules(len(u.Down)))
	}
	w.Flush()
	return b.Bytes()
}

// doorSummary says what awaits a client at a listener.
func doorSummary(cfg *config.Config, l config.Listener) string {
	switch {
	case !l.LetsIn():
		return "sends everybody on to " + l.Redirect.To
	case cfg.AllowsAnonymous(l):
		return "no password needed"
	}
	return "password needed"
}

func accessSummary(cfg *config.Config) string {
	a := cfg.Access
	var who []string
	if len(a.Everyone.Publish)+len(a.Everyone.Subscribe) > 0 {
		who = append(who, "everyone")
	}
	if len(a.Anonymous.Publish)+len(a.Anonymous.Subscribe) > 0 {
		who = append(who, "anonymous clients")
	}
	who = append(who, slices.Sorted(maps.Keys(a.Users))...)
	if len(who) == 0 {
		return "every topic for all who are in"
	}
	return "rules for " + strings.Join(who, ", ")
}

func rules(n int) string {
	if n == 1 {
		return "1 rule"
	}
	return fmt.Sprintf("%d rules", n)
}
