// Command fairlead is the command line tool. It explains the state of Services,
// with the code that the controller and the speakers run. Installed as
// kubectl-fairlead it is a kubectl plugin. It only reads from a cluster, except for
// uninstall.
//
// This package contains the flags of the commands (flags.go), their wiring
// (commands.go) and the exit statuses: 0 is success, 2 is a loss of an address or
// of an announcement that plan previews, 1 is any other result. Each command is
// implemented in the package of its name: explain, plan, doctor, dump, uninstall. Package
// objects reads the input of the decisions, package output prints the results.
// The transcripts in testdata and docs/cli.md test all of them together.
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
	// An interrupt cancels requests to the API server; the command then ends with
	// their error.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := newRootCommand().ExecuteContext(ctx); err != nil {
		os.Exit(exitCode(err, os.Stderr))
	}
}

// exitStatus is returned by a command that has printed its result and must end
// the process with this status.
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

// newRootCommand returns the command with the connection flags of kubectl. The
// kubeconfig is loaded only when a command needs a cluster or its namespace.
func newRootCommand() *cobra.Command {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	var overrides clientcmd.ConfigOverrides
	config := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &overrides)

	root := &cobra.Command{
		Use:               "fairlead",
		Short:             "Explain how Fairlead serves Services of type LoadBalancer, and why.",
		Version:           version.String(),
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&rules.ExplicitPath, "kubeconfig", "", "Path to the kubeconfig file.")
	flags.StringVar(&overrides.CurrentContext, "context", "", "Context of the kubeconfig to use.")
	flags.StringVarP(&overrides.Context.Namespace, "namespace", "n", "", "Namespace of Services that are named without a namespace.")
	root.AddCommand(explainCommand(config), planCommand(config), doctorCommand(config), dumpCommand(config), uninstallCommand(config), &cobra.Command{
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
