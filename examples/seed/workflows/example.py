workflow = {template(name='jobA',class='jobs.example.examplejobA'):[],
				template(name='jobB',class='jobs.example.examplejobB'):["jobA"],
			    template(name='jobC',class='jobs.example.examplejobC'):["jobA","jobB"]}
