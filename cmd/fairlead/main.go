// Command fairlead is the command line tool: it explains, with the code that
// the controller and the speakers run, why things are as they are. Installed as
// kubectl-fairlead it is a kubectl plugin. It never changes anything in a
// cluster.
//
// This package holds the commands' flags (flags.go), their wiring (commands.go)
// and exit statuses: 0 is success, 2 is a loss that plan previews, 1 anything
// else. What a command does is in the package with its name: explain, plan,
// doctor, dump. Package objects reads what they decide from, package output
// prints what they find. The transcripts in testdata and docs/cli.md test them
// together.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairlead-io/fairlead/cmd/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := newRootCommand().ExecuteContext(ctx); err != nil {
		os.Exit(exitCode(err, os.Stderr))
	}
}

// exitStatus is the error of a command that has printed its result and yet must
// end the process with the status.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", s) }

// exitCode returns the status for an error. It prints any error except an exitStatus.
func exitCode(err error, stderr io.Writer) int {
	if status, ok := errors.AsType[exitStatus](err); ok {
		return int(status)
	}
	fmt.Fprintf(stderr, "fairlead: %v\n", err)
	return 1
}

func newRootCommand() *cobra.Command {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	var overrides clientcmd.ConfigOverrides
	config := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &overrides)

	root := &cobra.Command{
		Use:               "fairlead",
		Short:             "Explain what Fairlead does with Services of type LoadBalancer, and why.",
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&rules.ExplicitPath, "kubeconfig", "", "Path to the kubeconfig.")
	flags.StringVar(&overrides.CurrentContext, "context", "", "Context of the kubeconfig.")
	flags.StringVarP(&overrides.Context.Namespace, "namespace", "n", "", "Namespace of a Service that is named without one.")
	root.AddCommand(explainCommand(config), planCommand(config), doctorCommand(config), dumpCommand(config), &cobra.Command{
		Use:   "version",
		Short: "Print the version.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "fairlead", version.String())
			return err
		},
	})
	return root
}
