package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds a configuration file, in bytes: more is some other file.
const maxFile = MiB

// Load reads the file at path, applies the overrides and checks everything, the files that it
// names included: they must be there, readable and what they should be. Relative paths in the
// file are taken from its folder, those of overrides from the working directory.
//
// With path "" it starts from the defaults. The error is Errors if the content is at fault.
func Load(path string, o Overrides) (*Config, error) {
	if path == "" {
		return parse(&decoder{disk: true}, nil, o)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("the configuration cannot be read: %w%s", err, readRemedy(err))
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("the configuration cannot be read: %w", err)
	}
	folder, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("the folder of the configuration cannot be found: %w", err)
	}
	return parse(&decoder{file: path, folder: folder, disk: true}, text, o)
}

// Parse reads a configuration without looking at the disk: paths stay as they are written, and
// the files that they name are not opened. name is what the file is called in errors, which are
// Errors. It never panics, whatever the text.
func Parse(name string, text []byte, o Overrides) (*Config, error) {
	return parse(&decoder{file: name}, text, o)
}

func parse(d *decoder, text []byte, o Overrides) (*Config, error) {
	root, fault := readTree(text)
	if fault != nil {
		fault.File = d.file
		return nil, Errors{fault}
	}
	d.origins = map[*yaml.Node]string{}
	d.errs = o.apply(root, d.origins)
	c := Default()
	d.config(root, c)
	for _, check := range d.checks {
		check()
	}
	if len(d.errs) > 0 {
		return nil, d.errs.sorted()
	}
	for _, w := range d.warnings.sorted() {
		c.Warnings = append(c.Warnings, w.Error())
	}
	return c, nil
}

// readTree parses one YAML document and returns its content, an empty mapping if there is none.
func readTree(text []byte) (*yaml.Node, *Error) {
	if len(text) > maxFile {
		return nil, &Error{Text: fmt.Sprintf("the file is larger than %s", FormatSize(maxFile))}
	}
	empty := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: 1, Column: 1}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return empty, nil
	} else if err != nil {
		return nil, syntaxError(err, text)
	}
	if err := dec.Decode(&second); err == nil {
		return nil, &Error{
			Line: second.Line, Column: second.Column,
			Text: "a second document (---) begins; allowed: one",
		}
	} else if !errors.Is(err, io.EOF) {
		return nil, syntaxError(err, text)
	}
	if len(doc.Content) != 1 || null(doc.Content[0]) {
		return empty, nil
	}
	return doc.Content[0], nil
}

var yamlLine = regexp.MustCompile(`^line (\d+): `)

// syntaxError gives an error of the YAML parser its place. The parser tells the line only: we
// point at the beginning of its text.
func syntaxError(err error, text []byte) *Error {
	said := strings.TrimPrefix(err.Error(), "yaml: ")
	e := &Error{Line: 1, Column: 1}
	if m := yamlLine.FindStringSubmatch(said); m != nil {
		said = said[len(m[0]):]
		e.Line, _ = strconv.Atoi(m[1])
		lines := bytes.Split(text, []byte("\n"))
		if e.Line >= 1 && e.Line <= len(lines) {
			line := lines[e.Line-1]
			e.Column = 1 + len(line) - len(bytes.TrimLeft(line, " \t"))
		}
	}
	e.Text = "this is not YAML: " + said
	if strings.Contains(said, "cannot start any token") && bytes.Contains(text, []byte("\t")) {
		e.Text += "; indent with spaces, tabs are not allowed"
	}
	return e
}
