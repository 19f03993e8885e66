package aws

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// fakeAWS is one account of AWS in memory. It follows AWS's documentation where
// moto does not: what takes time, what refers to what, limits, and what is
// refused. It sits inside the SDK's clients, so their signing, retries and
// errors are the real ones. Tests may change the fields between calls.
type fakeAWS struct {
	quota        fakeQuota
	provisioning int             // so many descriptions of a new balancer say "provisioning"
	lingering    int             // so often a deleted balancer's interfaces keep its groups from being deleted
	inUse        int             // so often a deleted listener's target group is still in use
	draining     int             // so many descriptions still list a target that was deregistered
	unknown      int             // so many calls do not know a new security group or listener yet; 0 at first, since a provider waits a second
	page         int             // results per page
	unhealthy    map[string]bool // instances whose health checks fail

	t               *testing.T
	account, region string

	mu           sync.Mutex
	serial       int
	vpcs         []*fakeVPC
	subnets      []*ec2types.Subnet
	routes       []*ec2types.RouteTable
	instances    []*ec2types.Instance
	groups       []*fakeGroup
	addresses    map[string]bool
	certificates map[string]bool
	balancers    []*fakeBalancer
	listeners    []*fakeListener
	targets      []*fakeTargets
}

// fakeQuota are the limits of the account.
type fakeQuota struct {
	balancers, listeners, targetGroups, targets, certificates int
	groups, rules, groupsPerBalancer, tags                    int
}

func newFake(t *testing.T, account, region string) *fakeAWS {
	return &fakeAWS{
		quota: fakeQuota{
			balancers: 50, listeners: 50, targetGroups: 3000, targets: 1000, certificates: 25,
			groups: 2500, rules: 60, groupsPerBalancer: 5, tags: 50,
		},
		provisioning: 2, lingering: 2, inUse: 1, draining: 2, page: 100,
		t: t, account: account, region: region,
		unhealthy: map[string]bool{}, addresses: map[string]bool{}, certificates: map[string]bool{},
	}
}

// awsError is a refusal of AWS.
type awsError struct {
	code, message string
}

func (e *awsError) Error() string { return e.code + ": " + e.message }

func newAWSError(code, format string, args ...any) error {
	return &awsError{code, fmt.Sprintf(format, args...)}
}

type (
	inputKey  struct{} // the operation's input
	answerKey struct{} // what goes through the real deserializer: an error
)

type rawResponse struct {
	response *http.Response
	err      error
}

// load makes clients that talk to the fake, through the wire if there is one.
func (f *fakeAWS) load(w *wire) config.LoadOptionsFunc {
	return config.WithAPIOptions([]func(*middleware.Stack) error{func(stack *middleware.Stack) error {
		keep := middleware.InitializeMiddlewareFunc("keep the input", func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
			return next.HandleInitialize(middleware.WithStackValue(ctx, inputKey{}, in.Parameters), in)
		})
		// Success leaves here, in front of the deserializer …
		answer := middleware.DeserializeMiddlewareFunc("answer", func(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (middleware.DeserializeOutput, middleware.Metadata, error) {
			output, raw := f.attempt(ctx, w)
			if raw == nil {
				return middleware.DeserializeOutput{Result: output}, middleware.Metadata{}, nil
			}
			return next.HandleDeserialize(middleware.WithStackValue(ctx, answerKey{}, raw), in)
		})
		// … and errors behind it, so that it makes the SDK's types of them.
		refuse := middleware.DeserializeMiddlewareFunc("refuse", func(ctx context.Context, _ middleware.DeserializeInput, _ middleware.DeserializeHandler) (middleware.DeserializeOutput, middleware.Metadata, error) {
			raw := middleware.GetStackValue(ctx, answerKey{}).(*rawResponse)
			if raw.err != nil {
				return middleware.DeserializeOutput{}, middleware.Metadata{}, raw.err
			}
			return middleware.DeserializeOutput{RawResponse: &smithyhttp.Response{Response: raw.response}}, middleware.Metadata{}, nil
		})
		if err := stack.Initialize.Add(keep, middleware.After); err != nil {
			return err
		}
		if err := stack.Deserialize.Add(answer, middleware.Before); err != nil {
			return err
		}
		return stack.Deserialize.Add(refuse, middleware.After)
	}})
}

// attempt is one attempt of a client to call AWS.
func (f *fakeAWS) attempt(ctx context.Context, w *wire) (any, *rawResponse) {
	service := serviceELB
	if middleware.GetServiceID(ctx) == ec2.ServiceID {
		service = serviceEC2
	}
	if ctx.Err() != nil {
		return nil, &rawResponse{err: &smithy.CanceledError{Err: ctx.Err()}}
	}
	var failing *kind
	if w != nil {
		failing = w.call(service, middleware.GetOperationName(ctx))
	}
	if failing == nil || failing.lost {
		output, err := f.do(middleware.GetStackValue(ctx, inputKey{}))
		switch refusal, _ := err.(*awsError); {
		case failing != nil:
		case err == nil:
			return output, nil
		case refusal != nil:
			return nil, &rawResponse{response: errorAnswer(service, http.StatusBadRequest, refusal.code, refusal.message)}
		default:
			return nil, &rawResponse{err: err}
		}
	}
	response, err := failing.answer(service)
	if err != nil {
		err = &smithyhttp.RequestSendError{Err: &url.Error{Op: "Post", URL: "https://" + service, Err: err}}
	}
	return nil, &rawResponse{response, err}
}

// do runs an action. The fake and its callers share no memory.
func (f *fakeAWS) do(input any) (any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	input = deepCopy(input)
	var output any
	var err error
	switch reflect.TypeOf(input).Elem().PkgPath() {
	case reflect.TypeFor[ec2.Client]().PkgPath():
		output, err = f.doEC2(input)
	case reflect.TypeFor[elb.Client]().PkgPath():
		output, err = f.doELB(input)
	default:
		err = f.foreignObject(input)
	}
	if err != nil {
		return nil, err
	}
	return deepCopy(output), nil
}

// foreignObject is an action that the fake does not have.
func (f *fakeAWS) foreignObject(input any) error {
	f.t.Errorf("the fake has no answer to %T", input)
	return newAWSError("InvalidAction", "the fake has no answer to %T", input)
}

// deepCopy is a deep copy of what x points to.
func deepCopy(x any) any {
	text, err := json.Marshal(x)
	if err != nil {
		panic(err)
	}
	y := reflect.New(reflect.TypeOf(x).Elem()).Interface()
	if err := json.Unmarshal(text, y); err != nil {
		panic(err)
	}
	return y
}

// fingerprint is equal for equal settings.
func fingerprint(x any) string {
	text, err := json.Marshal(x)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// id makes an identifier as AWS does.
func (f *fakeAWS) id(prefix string) string {
	f.serial++
	return fmt.Sprintf("%s%017x", prefix, f.serial)
}

func (f *fakeAWS) arn(kind string) string {
	return "arn:aws:elasticloadbalancing:" + f.region + ":" + f.account + ":" + kind
}

// paged cuts one page out of all results: those after the marker.
func paged[T any](f *fakeAWS, all []T, size *int32, marker *string) ([]T, *string, error) {
	from, length := 0, f.page
	if size != nil {
		length = min(length, int(*size))
	}
	if marker != nil {
		at, err := strconv.Atoi(*marker)
		if err != nil || at > len(all) {
			return nil, nil, newAWSError("ValidationError", "Invalid marker %s", *marker)
		}
		from = at
	}
	to := min(len(all), from+length)
	var next *string
	if to < len(all) {
		next = new(strconv.Itoa(to))
	}
	return all[from:to], next, nil
}

// fakeTime is when everything was made.
var fakeTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
