package main

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func parseFlags(t *testing.T, args ...string) (*flags, error) {
	t.Helper()
	f := &flags{}
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, set := range f.namedFlagSets().FlagSets {
		all.AddFlagSet(set)
	}
	if err := all.Parse(args); err != nil {
		return f, err
	}
	return f, f.validate()
}

func TestFlags(t *testing.T) {
	f, err := parseFlags(t)
	if err != nil || f.portRange.Low != 30000 || f.portRange.High != 32767 || !f.manageGroups {
		t.Fatalf("defaults: %+v, %v", f, err)
	}
	if p := f.providerPolicy(); p.Mode != "auto" || p.ClassedOnly || p.CleanupFinalizer || !strings.Contains(p.AWSLacks, "--cluster-name") {
		t.Errorf("policy %+v", p)
	}
	f, err = parseFlags(t, "--provider=aws", "--serve-services-without-class=false", "--bare-metal-cleanup-finalizer",
		"--aws-node-security-groups=sg-1,sg-2", "--aws-tags=a=b,c=d=e")
	if err != nil || len(f.groups) != 2 || f.tags["c"] != "d=e" {
		t.Fatalf("%+v, %v", f, err)
	}
	f.named = true
	if p := f.providerPolicy(); p.Mode != "aws" || !p.ClassedOnly || !p.CleanupFinalizer || p.AWSLacks != "" {
		t.Errorf("policy %+v", p)
	}
	for _, wrong := range []string{
		"--provider=gcp", "--node-port-range=30000", "--node-port-range=32767-30000", "--node-port-range=1-70000",
		"--aws-health-probe=tcp", "--aws-scheme=public", "--aws-resync=0s", "--aws-tags=novalue",
		"--aws-tags=kubernetes.io/cluster/other=owned",
	} {
		name, _, _ := strings.Cut(wrong, "=")
		if _, err := parseFlags(t, wrong); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}
