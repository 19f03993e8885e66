package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/fairlead-io/fairlead/providers"
)

func TestPolicyFlags(t *testing.T) {
	for _, row := range []struct {
		args []string
		want providers.Policy
	}{
		{nil, providers.Policy{Mode: "auto"}},
		{[]string{"--provider=aws", "--serve-services-without-class=false"}, providers.Policy{Mode: "aws", ClassedOnly: true}},
		{[]string{"--provider=gcp"}, providers.Policy{}},
	} {
		cmd := &cobra.Command{}
		policy := policyFlags(cmd)
		if err := cmd.ParseFlags(row.args); err != nil {
			t.Fatal(err)
		}
		got, err := policy()
		if got != row.want || (err == nil) != (row.want != providers.Policy{}) {
			t.Errorf("%q: %+v, %v", row.args, got, err)
		}
	}
}

func TestVersionFlag(t *testing.T) {
	var out strings.Builder
	root := newRootCommand()
	root.SetOut(&out)
	root.SetArgs([]string{"--version"})
	if err := root.Execute(); err != nil || !strings.HasPrefix(out.String(), "fairlead version ") {
		t.Errorf("%q, %v", out.String(), err)
	}
}
