package lab

import (
	"context"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// queryAPI identifies an AWS API with query parameters and responses in XML.
type queryAPI struct{ name, version string }

var (
	ec2 = queryAPI{"ec2", "2016-11-15"}
	elb = queryAPI{"elasticloadbalancing", "2015-12-01"}
)

// callAPI calls the emulated AWS with parameters of the form "VpcId=vpc-1". The
// emulator reads the region and the API from the signature, but does not verify it.
func (a *AWS) callAPI(ctx context.Context, api queryAPI, action string, answer any, parameters ...string) error {
	ctx, cancel := context.WithTimeout(ctx, WaitTimeout)
	defer cancel()
	form := url.Values{"Action": {action}, "Version": {api.version}}
	for _, p := range parameters {
		name, value, _ := strings.Cut(p, "=")
		form.Set(name, value)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, awsEnv()["AWS_ENDPOINT_URL"], strings.NewReader(form.Encode()))
	if err != nil {
		return fmt.Errorf("call %s of AWS: %w", action, err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Authorization", fmt.Sprintf(
		"AWS4-HMAC-SHA256 Credential=lab/20260101/%s/%s/aws4_request, SignedHeaders=host, Signature=0", Region, api.name))
	body, err := a.Host.sendRequest(request)
	if err != nil {
		return fmt.Errorf("call %s of AWS: %w: %s", action, err, body)
	}
	if err := xml.Unmarshal([]byte(body), answer); err != nil {
		return fmt.Errorf("call %s of AWS: %w", action, err)
	}
	return nil
}

// Balancer is a load balancer as described by AWS.
type Balancer struct {
	Name, ARN, DNSName, Scheme string

	Listeners []Listener // by port
}

// Listener is a port of a Balancer with its targets.
type Listener struct {
	Port     int
	Protocol string
	Group    string // the target group's ARN
	Targets  []Target
}

// Target is a registered target of a Listener.
type Target struct {
	Instance string
	Port     int
	State    string
}

// Balancers returns all load balancers, sorted by name.
func (a *AWS) Balancers(ctx context.Context) (all []Balancer, err error) {
	var answer struct {
		Balancers []struct {
			Name    string `xml:"LoadBalancerName"`
			ARN     string `xml:"LoadBalancerArn"`
			DNSName string `xml:"DNSName"`
			Scheme  string `xml:"Scheme"`
		} `xml:"DescribeLoadBalancersResult>LoadBalancers>member"`
	}
	if err := a.callAPI(ctx, elb, "DescribeLoadBalancers", &answer, "PageSize=400"); err != nil {
		return nil, err
	}
	for _, b := range answer.Balancers {
		listeners, err := a.describeListeners(ctx, b.ARN)
		if err != nil {
			return nil, err
		}
		all = append(all, Balancer{Name: b.Name, ARN: b.ARN, DNSName: b.DNSName, Scheme: b.Scheme, Listeners: listeners})
	}
	slices.SortFunc(all, func(a, b Balancer) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func (a *AWS) describeListeners(ctx context.Context, balancer string) (all []Listener, err error) {
	var answer struct {
		Listeners []struct {
			Port     int    `xml:"Port"`
			Protocol string `xml:"Protocol"`
			Group    string `xml:"DefaultActions>member>TargetGroupArn"`
		} `xml:"DescribeListenersResult>Listeners>member"`
	}
	if err := a.callAPI(ctx, elb, "DescribeListeners", &answer, "LoadBalancerArn="+balancer); err != nil {
		return nil, err
	}
	for _, l := range answer.Listeners {
		targets, err := a.describeTargets(ctx, l.Group)
		if err != nil {
			return nil, err
		}
		all = append(all, Listener{Port: l.Port, Protocol: l.Protocol, Group: l.Group, Targets: targets})
	}
	slices.SortFunc(all, func(a, b Listener) int { return a.Port - b.Port })
	return all, nil
}

func (a *AWS) describeTargets(ctx context.Context, group string) (all []Target, err error) {
	var answer struct {
		Targets []struct {
			ID    string `xml:"Target>Id"`
			Port  int    `xml:"Target>Port"`
			State string `xml:"TargetHealth>State"`
		} `xml:"DescribeTargetHealthResult>TargetHealthDescriptions>member"`
	}
	if err := a.callAPI(ctx, elb, "DescribeTargetHealth", &answer, "TargetGroupArn="+group); err != nil {
		return nil, err
	}
	for _, t := range answer.Targets {
		all = append(all, Target{Instance: t.ID, Port: t.Port, State: t.State})
	}
	slices.SortFunc(all, func(a, b Target) int { return strings.Compare(a.Instance, b.Instance) })
	return all, nil
}

// Leftovers returns the load balancers, target groups, security groups and rules that
// have been created since the start of the cluster and still exist.
func (a *AWS) Leftovers(ctx context.Context) (all []string, err error) {
	all, err = a.listResources(ctx)
	return slices.DeleteFunc(all, func(s string) bool { return slices.Contains(a.initialResources, s) }), err
}

func (a *AWS) listResources(ctx context.Context) (all []string, err error) {
	var balancers struct {
		Names []string `xml:"DescribeLoadBalancersResult>LoadBalancers>member>LoadBalancerName"`
	}
	if err := a.callAPI(ctx, elb, "DescribeLoadBalancers", &balancers, "PageSize=400"); err != nil {
		return nil, err
	}
	for _, name := range balancers.Names {
		all = append(all, "load balancer "+name)
	}
	var groups struct {
		Names []string `xml:"DescribeTargetGroupsResult>TargetGroups>member>TargetGroupName"`
	}
	if err := a.callAPI(ctx, elb, "DescribeTargetGroups", &groups, "PageSize=400"); err != nil {
		return nil, err
	}
	for _, name := range groups.Names {
		all = append(all, "target group "+name)
	}
	var security struct {
		Groups []struct {
			Name  string `xml:"groupName"`
			Rules []struct {
				Protocol string   `xml:"ipProtocol"`
				From     string   `xml:"fromPort"`
				To       string   `xml:"toPort"`
				Groups   []string `xml:"groups>item>groupId"`
				Ranges   []string `xml:"ipRanges>item>cidrIp"`
			} `xml:"ipPermissions>item"`
		} `xml:"securityGroupInfo>item"`
	}
	if err := a.callAPI(ctx, ec2, "DescribeSecurityGroups", &security, "Filter.1.Name=vpc-id", "Filter.1.Value.1="+a.vpc); err != nil {
		return nil, err
	}
	for _, g := range security.Groups {
		all = append(all, "security group "+g.Name)
		for _, r := range g.Rules {
			sources := strings.Join(append(r.Ranges, r.Groups...), " ")
			all = append(all, fmt.Sprintf("rule of security group %s: %s %s-%s from %s", g.Name, r.Protocol, r.From, r.To, sources))
		}
	}
	slices.Sort(all)
	return all, nil
}

// Delete deletes a load balancer, as a user might do manually.
func (a *AWS) Delete(ctx context.Context, b Balancer) error {
	return a.callAPI(ctx, elb, "DeleteLoadBalancer", &struct{}{}, "LoadBalancerArn="+b.ARN)
}
