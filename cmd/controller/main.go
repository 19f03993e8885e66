// Command controller is fairlead-controller: a cloud-controller-manager with a
// service controller of its own, which assigns addresses to Services of type
// LoadBalancer.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	appconfig "k8s.io/cloud-provider/app/config"
	"k8s.io/cloud-provider/names"
	"k8s.io/cloud-provider/options"
	"k8s.io/component-base/cli"
	componentbaseconfig "k8s.io/component-base/config"
	genericcontrollermanager "k8s.io/controller-manager/app"
	managed "k8s.io/controller-manager/controller"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	_ "golang.org/x/crypto/x509roots/fallback" // the image has no root certificates, and AWS's endpoints are verified by public ones
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"

	"github.com/fairlead-io/fairlead/cmd/health"
	"github.com/fairlead-io/fairlead/cmd/outage"
	"github.com/fairlead-io/fairlead/cmd/usage"
	"github.com/fairlead-io/fairlead/cmd/version"
	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/controller"
)

const name = "fairlead-controller"

func main() {
	if err := run(genericapiserver.SetupSignalContext()); err != nil {
		if !errors.Is(err, errPrinted) {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		}
		os.Exit(usage.ExitStatus(err))
	}
}

// errPrinted replaces errors of the framework, which prints them itself.
var errPrinted = errors.New("the error was printed")

// leaderElection runs Fairlead's own leader election with the configuration of the
// framework.
type leaderElection struct {
	config componentbaseconfig.LeaderElectionConfiguration
	done   chan error // receives the result when the controller has stopped
}

func run(ctx context.Context) error {
	if err := outage.SetConnectionTimeouts(); err != nil {
		return fmt.Errorf("configure the API client: %w", err)
	}
	o, err := options.NewCloudControllerManagerOptions()
	if err != nil {
		return fmt.Errorf("default options: %w", err)
	}
	o.KubeCloudShared.CloudProvider.Name = "fairlead"
	o.Webhook, o.WebhookServing = nil, nil
	o.Generic.LeaderElection.ResourceName = name
	o.Generic.LeaderElection.ResourceNamespace = "fairlead-system"
	o.Generic.LeaderElection.LeaseDuration.Duration = controller.LeaseDuration
	o.Generic.LeaderElection.RenewDeadline.Duration = controller.RenewDeadline
	o.Generic.LeaderElection.RetryPeriod.Duration = controller.RetryPeriod
	// API priority and fairness limits the rate, not the client.
	o.Generic.ClientConnection.QPS = -1
	o.ServiceController.ConcurrentServiceSyncs = 16

	e, f := &leaderElection{done: make(chan error, 1)}, &flags{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var started atomic.Pointer[controller.Controller]
	var listener *health.Listener // nil if the framework listens
	constructors := map[string]app.ControllerInitFuncConstructor{
		names.ServiceLBController: {
			InitContext: app.ControllerInitContext{ClientName: name},
			Constructor: func(_ app.ControllerInitContext, cc *appconfig.CompletedConfig, _ cloudprovider.Interface) app.InitFunc {
				return func(_ context.Context, m genericcontrollermanager.ControllerContext) (managed.Interface, bool, error) {
					c, err := newController(cc, f, e.config.ResourceNamespace)
					if err != nil {
						return nil, false, err
					}
					m.ControllerManagerMetrics.ControllerStarted(names.ServiceLBController)
					started.Store(c)
					go c.Watch(ctx)
					if listener != nil {
						go listener.RecordFailure(ctx, newRecorder(cc), health.OwnPod(), health.FailureInterval)
					}
					go func() {
						id := leaderIdentity()
						klog.InfoS("waiting to lead", "identity", id, "election", e.config.LeaderElect)
						e.done <- controller.RunElected(ctx, cc.Client, e.config, id, c.Run)
						cancel()
					}()
					return nil, true, nil
				}
			},
		},
	}
	initCloud := func(cc *appconfig.CompletedConfig) cloudprovider.Interface {
		// The framework's leader election does not release the lease on shutdown.
		// RunElected does, so the framework's own election is disabled.
		e.config = cc.ComponentConfig.Generic.LeaderElection
		cc.ComponentConfig.Generic.LeaderElection.LeaderElect = false
		monitorAPIServer(cc)
		return noCloud{}
	}
	cmd := app.NewCloudControllerManagerCommand(o, initCloud, constructors, names.CCMControllerAliases(), f.namedFlagSets(), ctx.Done())
	cmd.Use = name
	cmd.Long = "fairlead-controller assigns addresses to Services of type LoadBalancer.\n" +
		"It is a cloud-controller-manager with a service controller of its own."
	cmd.SilenceUsage = true
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage.Error(err) })
	cmd.Args = usage.NoArgs
	serve := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Lookup("version").Value.String() == "true" { // others are for the framework
			_, err := fmt.Fprintln(cmd.OutOrStdout(), name, "version", version.String())
			return err
		}
		if f.check != "" {
			return health.Probe(ctx, f.socket, f.check, cmd.OutOrStdout())
		}
		// The framework's default name is the same in all clusters. Two clusters in
		// one account with the same name would manage each other's load balancers.
		f.named = cmd.Flags().Changed("cluster-name") && o.KubeCloudShared.ClusterName != ""
		all := app.ControllerNames(constructors)
		election := o.Generic.LeaderElection
		if err := cmp.Or(f.validate(), controller.ValidateElection(election), o.Validate(all, nil, names.CCMControllerAliases(), nil, nil)); err != nil {
			return usage.Error(err)
		}
		var err error
		if listener, err = listenSecurely(o.SecureServing); err != nil {
			return usage.Error(err)
		}
		if f.socket != "" {
			go func() {
				if err := health.Serve(ctx, f.socket, healthChecks(&started)); err != nil {
					klog.ErrorS(err, "health is not served")
				}
			}()
		}
		if err := serve(cmd, args); err != nil {
			return errPrinted
		}
		return nil
	}
	err = cli.RunNoErrOutput(cmd)
	cancel()
	if started.Load() == nil {
		return err
	}
	// The lease expires, and the process has ended as requested. The permission is missing
	// while Fairlead is being uninstalled.
	if ended := <-e.done; ended != nil {
		klog.ErrorS(ended, "leader lease is not released")
	}
	return err
}

// monitorAPIServer logs the outages of the API server, and makes klog omit the lines about
// each request that fails meanwhile. The framework has created its clients already, and
// has set up klog, which it lets write text only.
func monitorAPIServer(cc *appconfig.CompletedConfig) {
	const all = 10 // klogLevels decides
	text := textlogger.NewLogger(textlogger.NewConfig(textlogger.Verbosity(all)))
	monitor := outage.New(klogLevels{logr.ToSlogHandler(text)})
	klog.SetLoggerWithOptions(logr.FromSlogHandler(monitor.Handler()), klog.ContextualLogger(true),
		klog.WriteKlogBuffer(text.GetSink().(textlogger.KlogBufferWriter).WriteKlogBuffer))
	cc.Kubeconfig.Wrap(monitor.Wrap)
	for _, c := range []kubernetes.Interface{cc.Client, cc.VersionedClient} {
		shared := c.CoreV1().RESTClient().(*rest.RESTClient).Client // by all of its API groups
		shared.Transport = monitor.Wrap(shared.Transport)
	}
}

// klogLevels is a handler that is enabled as the flags of klog say.
type klogLevels struct{ slog.Handler }

func (klogLevels) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || klog.V(klog.Level(-level)).Enabled()
}

// healthChecks returns the checks of the controller, which is nil until the API server
// has answered.
func healthChecks(started *atomic.Pointer[controller.Controller]) health.Checks {
	return health.Checks{
		NotReady: func() []string {
			if c := started.Load(); c != nil {
				return c.NotReady()
			}
			return []string{"waiting for the API server"}
		},
		Warnings: func() []string { return started.Load().Warnings() },
	}
}

func newLogger() *slog.Logger { return slog.New(logr.ToSlogHandler(klog.Background())) }

func newRecorder(cc *appconfig.CompletedConfig) record.EventRecorder {
	return cc.EventBroadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: name})
}

// newController returns the controller. namespace is that of Fairlead and of its
// leader lease.
func newController(cc *appconfig.CompletedConfig, f *flags, namespace string) (*controller.Controller, error) {
	fairlead, err := client.New(cc.Kubeconfig)
	if err != nil {
		return nil, err
	}
	log := newLogger()
	policy := f.providerPolicy()
	if f.named {
		policy.Cluster = cc.ComponentConfig.KubeCloudShared.ClusterName
	}
	options := controller.Options{
		Client:    cc.Client,
		Namespace: namespace,
		Fairlead:  fairlead,
		Informers: cc.SharedInformers,
		Events:    newRecorder(cc),
		Log:       log,
		Policy:    policy,
		Parallel:  int(cc.ComponentConfig.ServiceController.ConcurrentServiceSyncs),
		NodePorts: f.portRange,
		Cluster:   cc.ComponentConfig.KubeCloudShared.ClusterName,
		Resync:    f.resync,
	}
	if f.named {
		nodes := client.Source[*corev1.Node]{SharedIndexInformer: cc.SharedInformers.Core().V1().Nodes().Informer()}
		if options.Cloud, err = f.newCloud(options.Cluster, log, nodes.Objects); err != nil {
			return nil, err
		}
	}
	return controller.New(options)
}

// leaderIdentity returns the identity of this process in the leader lease: that of its
// Pod, so that a container that was restarted leads again at once. Outside of a Pod it is
// unique even among processes on one host.
func leaderIdentity() string {
	if pod := health.OwnPod(); pod != nil && pod.UID != "" {
		return pod.Name + "_" + string(pod.UID)
	}
	host, err := os.Hostname()
	if err != nil {
		host = name
	}
	return host + "_" + string(uuid.NewUUID())
}
