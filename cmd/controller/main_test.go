package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestMainOutput: the version is that of Fairlead, and an error is printed once. The
// framework has global state, so that each run needs a process.
func TestMainOutput(t *testing.T) {
	const inside = "FAIRLEAD_TEST_MAIN"
	if args, ok := os.LookupEnv(inside); ok {
		os.Args = append([]string{name}, strings.Fields(args)...)
		main()
		os.Exit(0)
	}
	for args, want := range map[string]string{
		"--version": name + " version ",
		"--health-socket= --secure-port=0 --kubeconfig=/nonexistent": "stat /nonexistent: no such file or directory",
	} {
		self := exec.Command(os.Args[0], "-test.run=^TestMainOutput$")
		self.Env = append(os.Environ(), inside+"="+args)
		out, err := self.CombinedOutput()
		if strings.Count(string(out), want) != 1 || (err == nil) != (args == "--version") {
			t.Errorf("%s: %v, want %q once:\n%s", args, err, want, out)
		}
	}
}
