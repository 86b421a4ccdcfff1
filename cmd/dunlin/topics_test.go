package main

import "testing"

func TestTopicsAreRewrittenAsConfigured(t *testing.T) {
	at := startBroker(t, "rewrite.0.from=old/+/#", "rewrite.0.to=new/$1/#",
		"rewrite.1.from=cmd", "rewrite.1.to=new/1/cmd", "rewrite.1.for=subscribe")
	for _, v := range versions {
		pub := args("pub", at, "-V", v, "-r", "-q", "1")
		dunlin(t, "", append(pub, "-t", "old/1/cmd", "-m", "x")...).check(t, 0, "", "")
		dunlin(t, "", append(pub, "-t", "cmd", "-m", "elsewhere")...).check(t, 0, "", "")
		for _, filter := range []string{"old/1/#", "new/+/cmd", "cmd"} {
			dunlin(t, "", args("sub", at, "-V", v, "-v", "-t", filter, "-C", "1")...).check(t, 0, "new/1/cmd x\n", "")
		}
	}
}
