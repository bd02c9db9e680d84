# ruff: noqa: E501  (rows of phrases read better than columns)
"""What customers say, by split. Cores and openers of `train`, `dev` and `test` are disjoint.

Slots: {loan} and {loan2} a product, {term} a term, {amount} a sum, {name}, {issue},
{paper}, {off} an off-topic wish. Written by hand; see `grammar` for the notation.
"""

OPENERS = {
    "train": [
        "[hi|hello|hey] [there|]", "good [morning|afternoon|evening]", "hi, [this is|my name is|it's] {name}",
        "hello [team|folks|support]", "hi [I hope you can help|got a question]", "hey, {name} here",
        "[dear|hello] Wrenfield [team|support|]", "hi, [quick|one|short] question",
    ],
    "dev": [
        "greetings", "hello, {name} [writing|speaking]", "hi Wrenfield", "good day [to you|]", "hello, [a question|something] for you",
    ],
    "test": [
        "hiya", "howdy", "hello again", "hello, I am {name}", "hi [everyone|all], {name} [on this end|writing]", "good day [team|]",
    ],
}  # fmt: skip

CLOSERS = {
    "train": [
        "[thanks|thank you|thx] [a lot|]", "thanks in advance", "[please|kindly] let me know", "[appreciate it|much appreciated]",
        "[I would|I'd] be grateful for [an answer|your help]",
    ],
    "dev": ["many thanks", "looking forward to your reply", "thanks for [any help|looking into it]"],
    "test": ["cheers", "thanks so much", "hope you can tell me", "thank you for your time"],
}  # fmt: skip

MOODS = {
    "calm": {"train": [""], "dev": [""], "test": [""]},
    "hurried": {
        "train": ["I am in a [hurry|rush].", "[quick one|need this fast].", "I have [two|five] minutes [before work|].", "[please be|be] quick.",
            "[I'm|I am] [short on|out of] time.",
            "[need|must have] this [today|right now|at once].",
        ],
        "dev": ["no time to lose here.", "I need this today."],
        "test": ["I'm short on time.", "must know right now."],
    },
    "worried": {
        "train": ["I am [a bit|really|so] [worried|nervous|anxious].", "this keeps me up at night.", "I'm [scared|afraid] I did something wrong.",
            "I [can't|cannot] [sleep|stop thinking] [because of|over] this.",
            "this makes me [nervous|uneasy|anxious].",
            "I have been [very|so] worried [lately|].",
        ],
        "dev": ["I am quite uneasy about this.", "I can't stop worrying about it."],
        "test": ["this makes me very nervous.", "I have been worried sick."],
    },
    "angry": {
        "train": [
            "this is [ridiculous|unacceptable|a joke].", "I am [really|so] [fed up|annoyed|angry] [with you|].", "[third|second|fourth] time I [ask|write]!",
            "I have been waiting for [days|weeks|ages]!", "why is [this|everything] so [hard|slow] with you?",
            "I [have had|had] enough [of you|of it|].",
            "you [never|don't] [answer|reply|help]!",
            "[terrible|awful|bad] service.",
            "my patience is [gone|over|at an end].",
            "[how|why] can this be so [difficult|hard]?",
            "this is [absurd|a disgrace|getting worse]!",
        ],
        "dev": ["I am losing my patience with you.", "how hard can it be?", "this is getting absurd!"],
        "test": ["I have had enough of this.", "nobody ever answers me!", "your service is terrible."],
    },
    "insulting": {
        "train": [
            "you [people|guys] are [useless|hopeless|a bunch of clowns].", "are you [stupid|blind|all asleep] or what?", "listen, you [clown|fool|genius].",
            "what a [bunch|pack] of [crooks|idiots|liars].", "do you even have a brain?", "[maybe|perhaps] try doing your job for once.",
            "you [must be|are] the [dumbest|worst|laziest] [people|desk|company] [on earth|I know|].",
            "[a monkey|my dog|a child] would do [this|your job] better.",
            "you [idiots|fools|crooks] [never|don't] [learn|get it].",
            "[wake up|hello], you [idiots|fools|clowns].",
            "does anybody with [half |]a brain work [there|for you]?",
            "you are [all|] [incompetent|liars|thieves|morons].",
        ],
        "dev": ["you must be the dumbest desk on earth.", "is anybody there with half a brain?", "you [crooks|fools] never learn."],
        "test": ["wake up, you idiots.", "a trained monkey would do better than you.", "you are all [liars|incompetent]."],
    },
}  # fmt: skip

CORES = {
    "rate": {
        "train": [
            "[what is|what's] [the|your] [current|] [rate|APR|interest rate] [for|on] a {loan} [over|at] {term}?",
            "how much interest [would I pay|do you charge] on a {loan} [of {amount}|] over {term}?",
            "[can|could] you [tell|give] me the [rate|APR] for a {loan} [over|with] {term}?",
            "I [want|need|am looking for] a {loan} [of {amount}|] for {term}, what [is the rate|rate would that be|APR do you have]?",
            "[looking|thinking] about a {loan}, {term}. what are your rates?",
            "{loan}, {term}, {amount}: what is the APR?",
            "which [rate|interest rate] do you [offer|have] for a {term} {loan}?",
            "what [rate|APR] do you have [for|on] a {loan}?",
            "how [high|much] is the interest on your {loan}?",
            "[please|] [tell|show] me the [rate|interest|APR] you [take|ask|have] for a {loan}[, {term}|].",
            "[say|suppose] I [borrow|take] {amount} [for|over] {term} as a {loan}. what [does it cost|interest is that|is the rate]?",
            "[I'd|I would] [like|love] to [hear|see] [your|the] [current|exact] rate for a {loan} [with|over] {term}.",
            "rate for {loan}, {term}?",
            "[any idea|do you know] what [interest|APR] [comes with|is on] a {term} {loan}?",
            "[quote|give] me [a|the] number: {loan}, {term}.",
            "the APR [of|on] {loan}s, what is it [now|today|these days]?",
        ],
        "dev": [
            "I'd like to know the APR of a {term} {loan} [please|].",
            "if I borrow {amount} with a {loan} for {term}, what interest rate applies?",
            "please quote me your rate for a {loan} [over {term}|].",
        ],
        "test": [
            "tell me the interest rate of the {loan} when I take {term}.",
            "what would the APR be [if I took out|for] a {loan} running {term}?",
            "I am curious about the rate on a {loan} [of {amount}|]. the term would be {term}.",
        ],
    },
    "compare": {
        "train": [
            "what is cheaper, a {loan} or a {loan2}?",
            "[can|could] you compare the rates of a {loan} and a {loan2}?",
            "should I take a {loan} or a {loan2}? what are the [rates|APRs]?",
            "I can't decide between a {loan} and a {loan2}, [which|what] has the lower rate?",
            "how does the [rate|APR] of a {loan} compare to a {loan2}?",
            "{loan} or {loan2}, which one has [less|lower] interest?",
            "[tell|show] me the [rates|APRs] of [both|] the {loan} and the {loan2}.",
            "I am [weighing|torn between] a {loan} and a {loan2}. [how do the rates compare|which costs less]?",
            "[what about|how about] the {loan} against the {loan2}, [is one cheaper|who has the better rate]?",
            "does a {loan} [cost|charge] [more|less] interest than a {loan2}?",
            "which is better [on|for] interest: {loan}, {loan2}?",
        ],
        "dev": [
            "between a {loan} and a {loan2}, which APR is lower?",
            "give me the rates for both a {loan} and a {loan2} [so I can choose|].",
        ],
        "test": [
            "is the interest on a {loan} lower than on a {loan2}?",
            "I want to weigh a {loan} against a {loan2}. what are the two rates?",
        ],
    },
    "apply": {
        "train": [
            "how [do|can] I apply for a {loan}?",
            "I want to [apply for|get] a {loan} [of {amount}|], what do I [need|have to do]?",
            "what [documents|papers] do you need for a {loan} application?",
            "where do I [start|begin] if I want a {loan}?",
            "[can|could] I apply for a {loan} [online|here]?",
            "how long does it take to apply for a {loan}?",
            "I would like {amount} as a {loan}. how does it work?",
            "[please|] [explain|tell me] how [to get|I get] a {loan}.",
            "what is the [first step|process] [for|to get] a {loan}?",
            "[which|what] [forms|papers|things] [must|should] I [send|bring|have ready] for a {loan}?",
            "I [am ready|plan|wish] to [request|take out|sign up for] a {loan} [of {amount}|], [what now|what next]?",
            "where can I find the [form|application] for {loan}s?",
        ],
        "dev": [
            "what are the steps to request a {loan}?",
            "I'd like to take out a {loan} [for {amount}|]. what comes first?",
            "which papers go with an application for a {loan}?",
        ],
        "test": [
            "please explain how to put in an application for a {loan}.",
            "I'm ready to get a {loan}. where is the form?",
            "what must I bring to apply for a {loan} [of {amount}|]?",
        ],
    },
    "approval": {
        "train": [
            "is my {loan} application approved?",
            "will I [get|be] approved for {amount} with a {loan}?",
            "just [tell|promise] me that my {loan} will be approved.",
            "I applied for a {loan} [last week|on Monday|yesterday], [am I|did I get] approved?",
            "[can|could] you guarantee that I get the {loan}?",
            "my credit is [ok|fine|good], so I will get the {loan}, right?",
            "I need a yes on my {loan} application [today|now].",
            "[did|has] my {loan} [go through|gone through|been decided] [yet|already|]?",
            "any [news|decision|answer] on my {loan}? [please say yes|I want a yes|I need to know].",
            "[say|tell me] [it is|that it's] approved, the {loan} [I mean|].",
            "[how likely|how sure] is it that I get the {loan}? [be honest|promise me|].",
            "you [will|are going to] [approve|accept] my {loan}, [won't you|aren't you|correct]?",
            "[confirm|assure me] that the {loan} [is mine|is a sure thing|will come].",
        ],
        "dev": [
            "can you confirm that my {loan} goes through?",
            "what are my chances for the {loan}? say it is a yes.",
            "has there been a decision on my {loan}? I need it approved.",
        ],
        "test": [
            "please assure me that the {loan} is as good as approved.",
            "did my {loan} application get a yes [yet|]?",
            "I am counting on the {loan}. it will be approved, won't it?",
        ],
    },
    "early": {
        "train": [
            "can I pay off my {loan} early?",
            "is there a [fee|penalty] if I [repay|pay back] my {loan} early?",
            "I want to [make|send] an extra payment on my {loan}, [is that ok|does it cost anything]?",
            "what happens if I pay my {loan} off before the end?",
            "do you charge [anything|a fee] for early repayment of a {loan}?",
            "I got a bonus and want to pay {amount} [extra|early] on my {loan}.",
            "[what does it cost|is it free] to [close|finish|settle] [the|my] {loan} [sooner|before time|early]?",
            "[any|are there] [charges|costs|penalties] [when|if] I [settle|clear|finish] the {loan} [ahead of time|before the term ends]?",
            "[could|may] I [send in|put] [more|extra] money [on|towards] the {loan}?",
            "I'd [like|love] to [get rid of|be done with] my {loan} [ahead of schedule|sooner|early]. [ok with you|does that cost me]?",
        ],
        "dev": [
            "would it cost me to clear the {loan} ahead of time?",
            "may I put extra money on my {loan} to finish early?",
        ],
        "test": [
            "any charges for settling my {loan} sooner than planned?",
            "I'd like to repay the {loan} ahead of schedule. is there a penalty?",
        ],
    },
    "late": {
        "train": [
            "I will be [late|a few days late] with my {loan} payment, what happens?",
            "I [missed|forgot] my [payment|last payment] on the {loan}, is there a [late fee|fee]?",
            "my {loan} payment [will come|comes] [next week|on Friday|in five days], is that [a problem|too late]?",
            "what is the late fee [on|for] a {loan}?",
            "I can only pay my {loan} a week late this month.",
            "my pay [is|comes] late so the {loan} payment will be late too. what now?",
            "[how many|what number of] days [late|of delay] are [ok|allowed] on a {loan}?",
            "[what does|how much does] a late payment [cost|mean] on [the|my] {loan}?",
            "I am [behind|overdue] [with|on] my {loan} [payment|]. [what happens now|what do I owe you for that|is there a charge]?",
            "the [payment|money] for the {loan} [did not arrive|was not sent|is delayed]. [will you charge me|is there a fee]?",
            "[may|can] my {loan} payment [arrive|be] [some|a couple of] days late?",
        ],
        "dev": [
            "the payment for my {loan} did not go out in time. what does that cost?",
            "how many days can I be late with the {loan} payment?",
        ],
        "test": [
            "I am behind by a few days on my {loan} payment. is there a charge?",
            "what do you do when a {loan} payment arrives late?",
        ],
    },
    "balance": {
        "train": [
            "[what is|what's] [the balance|my balance] on my {loan}?",
            "how much do I still owe on my {loan}?",
            "[can|could] you tell me my {loan} balance?",
            "I need [to know|] what is left on my {loan}.",
            "please check my [account|loan] balance, it is a {loan}.",
            "how much is left to pay on the {loan}?",
            "[look up|show me|give me] [my|the] [balance|remaining balance] [on|of] the {loan}.",
            "[I'd|I would] like [to see|] what [remains|I have left|I owe] on my {loan} [right now|].",
            "[tell me|say] what I [owe|have left] [on|with] my {loan}, please.",
            "[how big|how high] is my {loan} [still|now]?",
        ],
        "dev": ["I'd like to know what I owe on the {loan} today.", "look up the remaining balance of my {loan}."],
        "test": ["tell me how much remains on my {loan} account.", "what do I have left to repay on the {loan}?"],
    },
    "payoff": {
        "train": [
            "what is the payoff amount for my {loan}?",
            "I need a payoff [quote|amount|figure] for my {loan}.",
            "how much would it take to pay off my {loan} [today|this month|next Friday]?",
            "[can|could] you send me the payoff amount of my {loan}?",
            "I [inherited some|came into] money and need the payoff [amount|figure] for the {loan}.",
            "[give me|send me|I want] the [exact|full|] payoff [sum|number|figure] [on|of] my {loan}.",
            "[which|what] [amount|sum] [closes|clears|settles] my {loan} [today|in full|]?",
            "my [bank|new lender] [wants|needs] [the|a] payoff [letter|amount|figure] for my {loan}.",
            "to [close out|pay off] the {loan} [in full|completely], how much do I [send|need]?",
        ],
        "dev": ["give me the figure to close out my {loan}.", "my bank asks for the payoff amount of the {loan}."],
        "test": ["which amount pays off the {loan} in full?", "I want the exact payoff figure on my {loan}."],
    },
    "address": {
        "train": [
            "I moved, [how do I|please] change my address [for the {loan}|].",
            "[can|could] you update my address? I have a {loan} with you.",
            "my address has changed, [what do I do|where do I change it]?",
            "I [just|] moved to a new [place|home|city], please update [my address|the account].",
            "how can I change the address on my {loan} account?",
            "[put|write] my new address [on|in] [the|my] [account|file|{loan}].",
            "[you have|there is] [the|an] [old|wrong] address [of mine|on my account]. [please fix|can you fix|correct] it.",
            "[we|I] [live|are living] [at a new address|somewhere new] [since May|now]. [where do I tell you|please note it].",
            "my [post|mail] goes to the old [place|address], [the new one must go in|change it please].",
        ],
        "dev": ["we have a new home and you still have the old address.", "please put my new address on the {loan}."],
        "test": ["the address on my {loan} is out of date. fix it please.", "I live somewhere else now, so the address must be changed."],
    },
    "documents": {
        "train": [
            "I lost my {paper}, [can I get a copy|how do I get a new one]?",
            "where [can|do] I find my {paper} [for the {loan}|]?",
            "[can|could] you send me a copy of my {paper}?",
            "I need [another|a] copy of the {paper} for my {loan}.",
            "I can't find [my|the] {paper} [anymore|]. what now?",
            "[how|where] do I [download|get|print] my {paper} [again|]?",
            "[please|] help me [find|get] [the|my] {paper} [again|].",
            "my {paper} is [gone|missing|lost]. [is there a|I need a] [duplicate|new one|copy].",
            "[can|may] I [see|get] my {paper} [online|once more] [please|]?",
        ],
        "dev": ["my {paper} got lost in the move. how do I get it again?", "is there a way to download the {paper}?"],
        "test": ["the dog ate my {paper}. where is a duplicate?", "please help me get hold of my {paper} once more."],
    },
    "hardship": {
        "train": [
            "I lost my job and [can't|cannot] pay my {loan} [anymore|this month].",
            "I am [sick|in hospital] and can't [work|make the payments on my {loan}].",
            "my hours were cut and I can't [afford|keep up with] the {loan} payments.",
            "we had a [flood|fire|death in the family] and money is gone. I can't pay the {loan}.",
            "I am [going through a divorce|out of work] and [struggling|not able] to pay the {loan}.",
            "I have to choose between rent and the {loan} payment. what can you do?",
            "[since|after] my [accident|illness|divorce] I [cannot|can't] [pay|manage] the {loan}.",
            "[I was|they] [fired|laid off|let go] [me|] and the {loan} is [too much|more than I can pay].",
            "there is no [money|income] [left|coming in], so [no|I have no] way to pay my {loan}.",
            "[medical|hospital] bills [ate|took] [my savings|all my money] and the {loan} is due.",
            "I [earn|make] half of what I did, the {loan} is [crushing me|not possible now].",
        ],
        "dev": [
            "since the layoff I have no income for my {loan} payments.",
            "medical bills ate everything, I cannot manage the {loan} right now.",
        ],
        "test": [
            "I was let go and there is no money left for the {loan}.",
            "after my accident I am unable to earn, so the {loan} payment is not possible.",
        ],
    },
    "complaint": {
        "train": [
            "I want to [complain|make a complaint]: {issue}.",
            "{issue} and nobody [helps|cares]. I want to complain.",
            "this is a complaint. {issue}.",
            "I am not happy with your service, {issue}.",
            "{issue}. that is not ok and I want it fixed.",
            "where do I complain? {issue}.",
            "[please|I ask you to] [take|write|note] down [this|my] complaint: {issue}.",
            "{issue}. [I am|that makes me] very [unhappy|upset] [about it|with that].",
            "[I have|there is] a [problem|grievance] with your [desk|service]: {issue}.",
            "{issue}. I [wish|would like] to [file|raise] a complaint.",
            "how could this happen? {issue}.",
        ],
        "dev": ["please take down a complaint: {issue}.", "I am very unhappy, {issue}."],
        "test": ["I have a grievance. {issue}.", "{issue}. I wish to file a complaint about it."],
    },
    "person": {
        "train": [
            "[can|could] I [talk|speak] to a [real|] person about my {loan}?",
            "I want [to talk to|] a human, not a [bot|machine].",
            "[please|] [connect|put] me [with|through to] [an agent|a person] [about my {loan}|].",
            "is there [somebody|someone] I can call about my {loan}?",
            "[give|get] me a [real|human|live] [agent|person|being] [please|].",
            "I [prefer|would rather have] [a call|to talk] with [somebody|a person|staff] [about my {loan}|].",
            "[let me|I'd like to] [speak|talk] [to|with] [someone|somebody] [real|in person] [about the {loan}|].",
        ],
        "dev": ["let me have a real agent on the line.", "I'd rather speak with somebody in person about the {loan}."],
        "test": ["give me a human being to talk to [about the {loan}|].", "I prefer a call with a person at your desk."],
    },
    "thanks": {
        "train": [
            "[thanks|thank you], that [is|was] all [I needed|].",
            "[great|perfect|ok], [thanks|thank you] for [the help|your help].",
            "that [answers|solves] it, [thanks|thank you]. [bye|have a nice day|].",
            "[ok|all good], I have everything [now|I need]. [thanks|bye].",
            "[wonderful|lovely|very good], [nothing else|no more questions] [from me|].",
            "[you have been|that was] [very|a great|] [helpful|help], [thanks|thank you] [so much|].",
            "I am all set [then|now]. [goodbye|thanks|see you].",
        ],
        "dev": ["wonderful, nothing else from me.", "very helpful, I am all set now."],
        "test": ["that was everything, goodbye.", "lovely, you have been a great help."],
    },
    "offtopic": {
        "train": [
            "can you {off}?",
            "[please|] {off} [for me|].",
            "I [know it's|] not about loans but [can|could] you {off}?",
            "[before we start|by the way], {off}.",
            "[would|could] you [maybe|please|] {off}?",
            "[forget|never mind] the loan [for now|], {off}.",
            "[another|a different] [thing|request|wish]: {off}.",
            "I [bet|hope|think] you can {off} [too|].",
        ],
        "dev": ["would you be able to {off}?", "here is a different request: {off}."],
        "test": ["I bet you could {off}.", "forget loans for a second and {off}."],
    },
}  # fmt: skip

ISSUES = (
    ("you charged me [twice|two times] [this month|for one payment]", "the double charge"),
    ("[nobody|no one] called me back", "the missed call back"),
    ("I was on hold for [an hour|40 minutes|two hours]", "the long hold"),
    ("your agent was rude to me", "the rude agent"),
    ("you lost my [documents|papers]", "the lost papers"),
    ("the letter you sent has the wrong [name|amount|date]", "the wrong letter"),
    ("my payment was booked to the wrong account", "the wrong booking"),
    ("the app [keeps crashing|does not work]", "the app"),
    ("I got a late fee [I don't owe|by mistake]", "the late fee"),
)
PAPERS = ["loan agreement", "contract", "tax statement", "payment schedule", "welcome letter", "yearly statement"]
OFFTOPIC = [
    "tell me a joke", "give me a recipe for [soup|pancakes|bread]", "tell me [the weather|who won the game]", "write a poem about [my cat|the sea|spring]",
    "help with my [math homework|garden]", "pick a movie for tonight", "book a [flight|hotel|table for two]", "recommend a good [book|song|dentist]",
]  # fmt: skip
NAMES = [
    "Ana", "Ben", "Carla", "David", "Elena", "Frank", "Grace", "Hugo", "Iris", "James", "Karen", "Leo", "Maria", "Nina",
    "Omar", "Paula", "Quinn", "Rosa", "Sam", "Tina", "Uma", "Victor", "Wendy", "Xavier", "Yara", "Zoe", "Alan", "Beth",
    "Chris", "Dana", "Eric", "Fay", "Gina", "Henry", "Ivy", "Jack", "Kim", "Liam", "Mona", "Noah",
]  # fmt: skip
LAST_NAMES = ["Miller", "Lopez", "Khan", "Novak", "Reed", "Sato", "Weber", "Okoye"]
MONTHS = ["May", "June", "March", "October"]

# Earlier exchanges: hellos, or the customer's identity was just verified.
HELLOS = ["hello", "hi", "hey there", "are you there?", "hi, anyone here?"]
ASK_IDENTITY = (
    "[Sure|Of course|Gladly], [{name}, |]please [confirm|give me] your full name and date of birth [first|so I can verify you].",
    "[Happy to help.|I can help with that.] [Could|Can] you verify your date of birth and the last four digits of your account number?",
    "Thank you for writing. Before I open the account, please verify your full name and date of birth.",
)
GIVE_IDENTITY = {
    "train": ["it is {name} {last}, born {born}.", "{name} {last}, {born}, account ends in {digits}.", "sure: {name} {last}, date of birth {born}."],
    "dev": ["this is {name} {last} and I was born {born}."],
    "test": ["of course, my name is {name} {last}, birthday {born}."],
}  # fmt: skip
SMALL_TALK = (
    "[Hello|Hi], [welcome to|this is] Wrenfield [Lending|]. How can I help [you|you today]?",
    "Good day. What can I do for you?",
)
