package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"dunlin/testbench/load"
)

// report is what is written.
type report struct {
	Time       time.Time    `json:"time"`
	Commit     string       `json:"commit"`
	Command    string       `json:"command"`
	Machine    load.Machine `json:"machine"`
	FileSystem string       `json:"file_system"`
	Speed      []point      `json:"speed,omitempty"`
	Online     []traffic    `json:"online,omitempty"`
	Queues     []queue      `json:"queues,omitempty"`
	Bounds     []bound      `json:"bounds"`
}

// bound is a figure that we want to hold.
type bound struct {
	What  string  `json:"what"`
	Want  string  `json:"want"`
	Got   float64 `json:"got"`
	Holds bool    `json:"holds"`
}

func (r *report) most(what string, got, most float64) {
	r.Bounds = append(r.Bounds, bound{what, fmt.Sprintf("≤ %g", most), got, got <= most})
}

func (r *report) least(what string, got, least float64) {
	r.Bounds = append(r.Bounds, bound{what, fmt.Sprintf("≥ %g", least), got, got >= least})
}

// judge compares with what we want to hold.
func (r *report) judge() {
	for _, p := range r.Speed {
		switch {
		case p.Publishers == 4 && p.InFlight == 200:
			r.least("durable messages/s, 4 publishers with 50 in flight", p.Rate, 40_000)
			r.least("messages for each bare fdatasync", p.PerSync, 10)
		case p.InFlight == 1:
			r.most("PUBACK p50 of one at a time, in bare fdatasyncs", p.AckP50/p.Bare, 4)
		}
		switch {
		case p.InFlight == 1000:
			r.most("bytes written for a message, 1000 in flight", p.Written, 300)
		case p.Group >= 64:
			r.most(fmt.Sprintf("bytes written for a message, %.0f in a commit", p.Group), p.Written, 800)
		}
	}
	for _, t := range r.Online {
		r.most("bytes written, receivers online, "+t.What, float64(t.Written), 0)
	}
	for _, q := range r.Queues {
		name := fmt.Sprintf("%d × %d messages of %d B: ", q.Sessions, q.Messages, q.Size)
		limit := 16.0
		if q.Sessions > 1 {
			limit = 32
		}
		r.most(name+"MB above idle", float64(q.Memory)/1e6, limit)
		if q.Sessions == 1 { // more have more entries
			r.most(name+"start after a clean stop, s", q.Clean, 1)
			r.most(name+"start after a crash, s", q.Crash, 3)
		}
	}
}

// missed returns an error if a bound does not hold.
func (r *report) missed() error {
	var errs []error
	for _, b := range r.Bounds {
		if !b.Holds {
			errs = append(errs, fmt.Errorf("%s: %.4g, want %s", b.What, b.Got, b.Want))
		}
	}
	return errors.Join(errs...)
}

// text writes r for people.
func (r *report) text(w io.Writer) error {
	var b bytes.Buffer
	m := r.Machine
	fmt.Fprintf(&b, "# %s, commit %s\n\n`%s`\n\n", r.Time.Format(time.DateOnly), r.Commit, r.Command)
	fmt.Fprintf(&b, "Linux %s %s, %d × %s, %.1f GiB, %s. Broker and generator share the machine.\n", m.Kernel, m.Arch, m.CPUs, m.CPU,
		float64(m.MemoryKiB)/(1<<20), r.FileSystem)
	if len(r.Speed) > 0 {
		b.WriteString("\n## QoS 1 for a session that is away, 128 B\n\n" +
			"| publishers | in flight | messages/s | PUBACK p50 µs | p99 µs | in a commit | bytes written | CPU µs | bare fdatasync µs | messages in one |\n" +
			"|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	}
	for _, p := range r.Speed {
		fmt.Fprintf(&b, "| %d | %d | %.0f | %.0f | %.0f | %.1f | %.0f | %.2f | %.0f | %.2f |\n",
			p.Publishers, p.InFlight, p.Rate, p.AckP50, p.AckP99, p.Group, p.Written, p.CPU, p.Bare, p.PerSync)
	}
	if len(r.Online) > 0 {
		b.WriteString("\n## QoS 1 for persistent sessions that are connected, 128 B\n\n" +
			"| | messages/s | PUBACK p50 µs | p99 µs | bytes written | CPU µs |\n|---|---:|---:|---:|---:|---:|\n")
	}
	for _, t := range r.Online {
		fmt.Fprintf(&b, "| %s | %.0f | %.0f | %.0f | %d | %.2f |\n", t.What, t.Rate, t.AckP50, t.AckP99, t.Written, t.CPU)
	}
	if len(r.Queues) > 0 {
		b.WriteString("\n## A long queue\n\n" +
			"| messages | sessions | payload B | MB above idle | file MB | start clean s | after a crash s | clean, cold s | crash, cold s |\n" +
			"|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	}
	for _, q := range r.Queues {
		fmt.Fprintf(&b, "| %d | %d | %d | %.1f | %.0f | %.2f | %.2f | %.2f | %.2f |\n", q.Messages, q.Sessions, q.Size,
			float64(q.Memory)/1e6, float64(q.File)/1e6, q.Clean, q.Crash, q.ColdClean, q.ColdCrash)
	}
	b.WriteString("\n## What is to hold\n\n| | want | got | |\n|---|---|---:|---|\n")
	for _, k := range r.Bounds {
		verdict := "holds"
		if !k.Holds {
			verdict = "**MISSED**"
		}
		fmt.Fprintf(&b, "| %s | %s | %.4g | %s |\n", k.What, k.Want, k.Got, verdict)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// write puts the report into a folder, as JSON and as text. part is what it is about, "" = everything.
func (r *report) write(folder, part string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	var text strings.Builder
	if err := r.text(&text); err != nil {
		return err
	}
	name := filepath.Join(folder, fmt.Sprintf("%s-%s-store", r.Time.Format(time.DateOnly), r.Commit))
	if part != "" {
		name += "-" + part
	}
	return errors.Join(
		os.WriteFile(name+".json", append(raw, '\n'), 0o644),
		os.WriteFile(name+".md", []byte(text.String()), 0o644),
	)
}
