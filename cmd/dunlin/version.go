package main

import (
	"fmt"
	"runtime"
)

const versionHelp = `Usage: dunlin version

Prints the version of dunlin, the version of Go that it was built with, and
the operating system and processor that it was built for.
`

func printVersion(c *call) error {
	others, err := c.parse(c.options())
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return usagef("%q is too much", others[0])
	}
	_, err = fmt.Fprintf(c.out, "dunlin %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
