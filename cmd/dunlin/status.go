package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"dunlin/cmd/dunlin/config"
	"dunlin/cmd/dunlin/console"
)

const statusHelp = `Usage: dunlin status [--data DIR | --config FILE | --socket PATH] [--json]

Asks a running broker what it is and does: clients, sessions, queues, uplinks.

  --data DIR      the broker whose data folder is DIR
  --config FILE   the broker whose configuration is FILE
  --socket PATH   the broker whose admin socket is PATH
  --json          print JSON

Without these it is the one of /run/dunlin/admin.sock, or the one whose data
is in ./dunlin-data. It takes root or the user of the broker, or a member of
admin.group.
`

const ledgerHelp = `Usage: dunlin ledger [--data DIR | --config FILE | --socket PATH] [--walk]
                     [--json]

Prints the account of every queue: what came in = what was delivered, expired,
was dropped or moved + what is pending. If that does not add up, it says so and
exits with 1.

  --walk          count what is pending on disk, too, record by record
  --data, --config, --socket, --json
                  as in "dunlin status"
`

// place is where a broker and its data are, as the options say.
type place struct {
	data, file, socket string
}

// placeOptions defines the options that say which broker is meant.
func placeOptions(fs *flag.FlagSet) *place {
	p := new(place)
	fs.StringVar(&p.data, "data", "", "")
	fs.StringVar(&p.file, "config", "", "")
	fs.StringVar(&p.socket, "socket", "", "")
	return p
}

// folder is the data folder that is meant, "" if only a socket is known.
func (p *place) folder() (string, error) {
	switch {
	case p.data != "" && p.file != "":
		return "", usagef("--data and --config say two things")
	case p.data != "":
		return p.data, nil
	case p.file != "":
		cfg, err := config.Load(p.file, config.Overrides{})
		if err != nil {
			return "", err
		}
		return cfg.Data, nil
	}
	return "", nil
}

// console finds the admin socket of the broker that is meant.
func (p *place) console() (*console.Client, error) {
	if p.socket != "" {
		if p.data != "" || p.file != "" {
			return nil, usagef("--socket says which broker is meant; --data and --config do not go with it")
		}
		return console.NewClient(p.socket), nil
	}
	folder, err := p.folder()
	if err != nil {
		return nil, err
	}
	if folder == "" {
		if socket := serviceSocket(); isSocket(socket) {
			return console.NewClient(socket), nil
		}
		folder = config.Default().Data
	}
	socket := notedSocket(folder)
	if socket == "" {
		return nil, fmt.Errorf("no broker runs on the data folder %s, or it has no admin socket; name it with --data, --config or --socket", folder)
	}
	return console.NewClient(socket), nil
}

// absent says what to do if no broker is there.
func absent(err error) error {
	if errors.Is(err, console.ErrAbsent) {
		return fmt.Errorf("%w; name a broker that runs with --data, --config or --socket", err)
	}
	return err
}

// asking parses the options of a subcommand that asks a broker and takes no other arguments.
func (c *call) asking(fs *flag.FlagSet) error {
	others, err := c.parse(fs)
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return usagef("%q is too much", others[0])
	}
	return nil
}

func status(c *call) error {
	fs := c.options()
	p := placeOptions(fs)
	asJSON := fs.Bool("json", false, "")
	if err := c.asking(fs); err != nil {
		return err
	}
	client, err := p.console()
	if err != nil {
		return err
	}
	var s console.Status
	if err := client.Get(context.Background(), "/v1/status", nil, &s); err != nil {
		return absent(err)
	}
	if *asJSON {
		return printJSON(c.out, s)
	}
	return printStatus(c.out, &s)
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func printStatus(out io.Writer, s *console.Status) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(key, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", key, fmt.Sprintf(format, args...)) }
	line("version", "%s, process %d, up for %s", s.Version, s.PID, time.Duration(s.UptimeSeconds)*time.Second)
	line("state", "%s", s.Listening)
	line("data", "%s, sessions.db has %s", s.Data, inBytes(s.StoreBytes))
	line("clients", "%d connected, %d sessions, %d subscriptions", s.Connected, s.Sessions, s.Subscriptions)
	line("messages", "%d retained, %d delayed", s.Retained, s.Delayed)
	line("queues", "%s", accountLine(&s.Queues))
	for i := range s.Uplinks {
		u := &s.Uplinks[i]
		line("uplink", "%s: %s, %d in flight", u.Name, linkState(u), u.InFlight)
		line("", "%s", accountLine(&u.Spool))
	}
	return w.Flush()
}

// linkState says in words how an uplink is.
func linkState(u *console.Uplink) string {
	switch {
	case u.Connected:
		return "connected to " + u.Endpoint + since(u.Since)
	case u.LastError != "":
		return "not connected to " + u.Endpoint + since(u.Since) + " (" + u.LastError + ")"
	}
	return "not connected to " + u.Endpoint + since(u.Since)
}

func since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " since " + t.Format(time.DateTime)
}

// accountLine is an account in words.
func accountLine(a *console.Account) string {
	text := fmt.Sprintf("%d pending (%s), %d accepted, %d delivered, %d expired, %d dropped",
		a.Pending, inBytes(a.Bytes), a.Accepted, a.Delivered, a.Expired, a.AllDropped())
	if n := a.Mismatch(); n != 0 {
		text += fmt.Sprintf("; IT DOES NOT ADD UP BY %d", n)
	}
	return text
}

func ledger(c *call) error {
	fs := c.options()
	p := placeOptions(fs)
	walk := fs.Bool("walk", false, "")
	asJSON := fs.Bool("json", false, "")
	if err := c.asking(fs); err != nil {
		return err
	}
	client, err := p.console()
	if err != nil {
		return err
	}
	query := url.Values{}
	if *walk {
		query.Set("walk", "1")
	}
	var l console.Ledger
	if err := client.Get(context.Background(), "/v1/ledger", query, &l); err != nil {
		return absent(err)
	}
	if *asJSON {
		err = printJSON(c.out, l)
	} else {
		err = printLedger(c.out, &l)
	}
	if err == nil && l.Mismatches > 0 {
		err = fmt.Errorf("the ledger does not add up by %d entries; keep a copy of the data folder and of the log, and report it", l.Mismatches)
	}
	return err
}

func printLedger(out io.Writer, l *console.Ledger) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	columns := []string{"QUEUE", "ACCEPTED", "DELIVERED", "EXPIRED", "DROPPED", "MOVED", "DEAD", "PENDING", "BYTES"}
	if l.Walked {
		columns = append(columns, "ON DISK")
	}
	fmt.Fprintln(w, strings.Join(append(columns, ""), "\t"))
	row := func(name string, a *console.Account, walked *console.Walked, off uint64) {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t", plain(name), a.Accepted, a.Delivered, a.Expired, a.AllDropped(),
			a.Moved, a.Dead, a.Pending, a.Bytes)
		if l.Walked {
			if walked != nil {
				fmt.Fprint(w, walked.Pending)
			}
			fmt.Fprint(w, "\t")
		}
		fmt.Fprintln(w, remark(a, off))
	}
	for i := range l.Queues {
		q := &l.Queues[i]
		row(q.Name, &q.Account, q.Walked, q.Mismatches())
	}
	row("all sessions, ended ones too", &l.Total, nil, uint64(max(l.Total.Mismatch(), -l.Total.Mismatch())))
	for i := range l.Uplinks {
		q := &l.Uplinks[i]
		row("spool of "+q.Name, &q.Account, q.Walked, q.Mismatches())
	}
	return w.Flush()
}

// remark says why messages were dropped, and whether the account adds up.
func remark(a *console.Account, off uint64) string {
	var why []string
	for _, reason := range slices.Sorted(maps.Keys(a.Dropped)) {
		if n := a.Dropped[reason]; n > 0 {
			why = append(why, fmt.Sprintf("%s %d", reason, n))
		}
	}
	text := ""
	if len(why) > 0 {
		text = "dropped: " + strings.Join(why, ", ")
	}
	if off > 0 {
		text = strings.TrimSpace(fmt.Sprintf("DOES NOT ADD UP BY %d %s", off, text))
	}
	return text
}

// plain is text that does nothing to a terminal.
func plain(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }) {
		return fmt.Sprintf("%q", text)
	}
	return text
}

// inBytes is a number of bytes as people read it.
func inBytes(n int64) string {
	const units = "kMGT"
	size, unit := float64(n)/1000, 0
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	for size >= 1000 && unit < len(units)-1 {
		size /= 1000
		unit++
	}
	return fmt.Sprintf("%.1f %cB", size, units[unit])
}
