package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// rackManifests has a Service that is served from the pool, in addition to the Service
// that AWS serves.
const rackManifests = `---
apiVersion: v1
kind: Service
metadata:
  name: on-rack
spec:
  type: LoadBalancer
  loadBalancerClass: fairlead.io/bare-metal
  selector: {app: influxdb}
  ports:
  - port: 8086
`

// runAWSDemo starts a cluster in an emulated AWS with one bare-metal node, and
// demonstrates a Service on each.
func runAWSDemo(ctx context.Context, o lab.Options, keep bool) error {
	o.AWS = max(1, o.Nodes-1)
	started := time.Now()
	c, err := lab.Start(ctx, o)
	if err != nil {
		return err
	}
	err = o.Progress.Step("create an IPAddressPool, an L2Advertisement and two Services", func() error {
		if err := c.Apply(ctx, l2Manifests+rackManifests); err != nil {
			return err
		}
		if err := waitTargets(ctx, c, 1, o.AWS); err != nil {
			return err
		}
		_, err := c.WaitAnnounced(ctx, "on-rack")
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("  == first load balancer after %.1f s\n", time.Since(started).Seconds())
	if err := showCommands(ctx, c, "get nodes -o custom-columns=NODE:.metadata.name,PROVIDER-ID:.spec.providerID",
		"get svc influxdb on-rack"); err != nil {
		return err
	}
	if err := showTargets(ctx, c); err != nil {
		return err
	}
	out, err := c.Fairlead(ctx, "explain", "svc", "default/influxdb")
	if err != nil {
		return err
	}
	fmt.Printf("\n$ fairlead explain svc default/influxdb\n%s", out)
	if err := changeService(ctx, c, o); err != nil {
		return err
	}
	if keep {
		return lab.Keep(ctx, c)
	}
	if err := showCommands(ctx, c, "delete svc influxdb"); err != nil {
		return err
	}
	err = lab.Wait(ctx, "all resources in AWS are deleted", func() error {
		left, err := c.AWS.Leftovers(ctx)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("existing resources: %s", strings.Join(left, ", "))
		}
		return err
	})
	if err != nil {
		return err
	}
	fmt.Println("\nNo load balancer, target group, security group or rule is left in AWS.\nDone. Everything was removed.")
	return nil
}

// changeService adds a port to the Service, and deletes a node.
func changeService(ctx context.Context, c *lab.Cluster, o lab.Options) error {
	patch := `{"spec":{"ports":[{"port":8086,"name":"api"},{"port":80,"name":"web","targetPort":"http"}]}}`
	out, err := c.Kubectl(ctx, "", "patch", "svc", "influxdb", "-p", patch)
	if err != nil {
		return err
	}
	fmt.Printf("\n$ kubectl patch svc influxdb -p '%s'\n%s", patch, out)
	if err := waitTargets(ctx, c, 2, o.AWS); err != nil {
		return err
	}
	nodes := o.AWS
	if nodes > 1 {
		if err := showCommands(ctx, c, "delete node "+c.Nodes[nodes-1].Name); err != nil {
			return err
		}
		nodes--
		if err := waitTargets(ctx, c, 2, nodes); err != nil {
			return err
		}
	}
	return showTargets(ctx, c)
}

// serviceBalancer returns the load balancer of the Service influxdb.
func serviceBalancer(ctx context.Context, c *lab.Cluster) (b lab.Balancer, err error) {
	svc, err := c.API.CoreV1().Services("default").Get(ctx, "influxdb", metav1.GetOptions{})
	if err != nil {
		return b, fmt.Errorf("get Service influxdb: %w", err)
	}
	all, err := c.AWS.Balancers(ctx)
	if err != nil {
		return b, err
	}
	for _, b := range all {
		for _, in := range svc.Status.LoadBalancer.Ingress {
			if in.Hostname == b.DNSName {
				return b, nil
			}
		}
	}
	return b, fmt.Errorf("none of the %d load balancers is in the status: %+v", len(all), svc.Status)
}

// waitTargets waits until the load balancer has the number of listeners with the
// number of targets each.
func waitTargets(ctx context.Context, c *lab.Cluster, listeners, targets int) error {
	return lab.Wait(ctx, fmt.Sprintf("the load balancer has %d listeners with %d targets each", listeners, targets), func() error {
		b, err := serviceBalancer(ctx, c)
		if err != nil {
			return err
		}
		if len(b.Listeners) != listeners {
			return fmt.Errorf("the load balancer has %d listeners", len(b.Listeners))
		}
		for _, l := range b.Listeners {
			if len(l.Targets) != targets {
				return fmt.Errorf("listener %d has %d targets", l.Port, len(l.Targets))
			}
		}
		return nil
	})
}

// showTargets prints the targets of the load balancer as the command line of AWS does.
func showTargets(ctx context.Context, c *lab.Cluster) error {
	b, err := serviceBalancer(ctx, c)
	if err != nil {
		return err
	}
	for _, l := range b.Listeners {
		fmt.Printf("\n$ aws elbv2 describe-target-health --output text \\\n    --target-group-arn %s \\\n", l.Group)
		fmt.Printf("    --query 'TargetHealthDescriptions[].[Target.Id,Target.Port,TargetHealth.State]'    # %s port %d\n", l.Protocol,
			l.Port)
		for _, t := range l.Targets {
			fmt.Printf("%s\t%d\t%s\n", t.Instance, t.Port, t.State)
		}
	}
	return nil
}
